# stableqat_warnings(TARGET): our own code compiles without a warning.
function(stableqat_warnings target)
  target_compile_options(
    ${target}
    PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wnon-virtual-dtor;-Woverloaded-virtual;-Wold-style-cast;-Wundef>
            $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${STABLEQAT_WERROR}>>:-Werror>)
endfunction()
