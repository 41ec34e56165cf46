# STABLEQAT_CUDA: ON, OFF, or AUTO (the default: where an nvcc is found: CUDACXX, that of `tools/setup.sh --cuda`, in the PATH or in /usr/local/cuda). It builds
# libstableqat_cuda.so, which the program opens at run time; nothing else of the build changes.
set(STABLEQAT_CUDA AUTO CACHE STRING "Build the CUDA back end: ON, OFF or AUTO")
set_property(CACHE STABLEQAT_CUDA PROPERTY STRINGS AUTO ON OFF)
set(STABLEQAT_CUDA_ARCHITECTURES 80 90 CACHE STRING "Compute capabilities of the CUDA kernels, without the dot")

set(STABLEQAT_HAS_CUDA OFF)
if(STABLEQAT_CUDA AND NOT STABLEQAT_SANITIZE)
  if(DEFINED ENV{CUDACXX})
    set(STABLEQAT_NVCC "$ENV{CUDACXX}" CACHE FILEPATH "CUDA compiler")
  endif()
  find_program(STABLEQAT_NVCC nvcc HINTS "${STABLEQAT_LIBTORCH}/../nvidia/cu13/bin" PATHS /usr/local/cuda/bin)
  mark_as_advanced(STABLEQAT_NVCC)
  if(STABLEQAT_NVCC)
    set(STABLEQAT_HAS_CUDA ON)
  elseif(NOT STABLEQAT_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "STABLEQAT_CUDA is ${STABLEQAT_CUDA}, but there is no nvcc; run tools/setup.sh --cuda, or set CUDACXX to an nvcc")
  endif()
endif()

if(STABLEQAT_HAS_CUDA)
  # Where programs look for it.
  include(GNUInstallDirs)
  list(APPEND CMAKE_BUILD_RPATH "${CMAKE_BINARY_DIR}/lib")
  list(APPEND CMAKE_INSTALL_RPATH "\$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
  set(CMAKE_CUDA_COMPILER "${STABLEQAT_NVCC}")
  set(CMAKE_CUDA_ARCHITECTURES ${STABLEQAT_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # LibTorch's
  enable_language(CUDA)
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know it yet
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
endif()
