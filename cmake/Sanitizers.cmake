# STABLEQAT_SANITIZE: empty, "address,undefined" or "thread"; applied to everything we compile.
set(STABLEQAT_SANITIZE "" CACHE STRING "Sanitizers to build with (address,undefined or thread)")
if(STABLEQAT_SANITIZE)
  add_compile_options(-fsanitize=${STABLEQAT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${STABLEQAT_SANITIZE})
endif()
