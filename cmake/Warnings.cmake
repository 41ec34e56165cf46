# stableqat_warnings(TARGET): our own code compiles without a warning.
function(stableqat_warnings target)
  target_compile_options(
    ${target}
    PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wold-style-cast;-Wundef>
            # In a precompiled header GCC takes the standard library for our code, and its wild guesses about strings for warnings worth giving.
            $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-stringop-overflow;-Wno-stringop-overread;-Wno-array-bounds>
            # GCC 12 at -O3 takes "text" + std::string for an overlapping copy (its bug 105651).
            $<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
            # GCC 13 takes whatever a function returns for a part of its temporary arguments.
            $<$<AND:$<COMPILE_LANG_AND_ID:CXX,GNU>,$<VERSION_GREATER_EQUAL:$<CXX_COMPILER_VERSION>,13>>:-Wno-dangling-reference>
            $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${STABLEQAT_WERROR}>>:-Werror>)
endfunction()
