# Finds the LibTorch of the torch wheel (CPU part) and makes the imported target LibTorch::cpu.
#
# The wheel's own TorchConfig.cmake asks for a whole CUDA toolkit; a CPU program needs three libraries only.
# Looked up in this order: STABLEQAT_LIBTORCH (cache variable, then environment variable), the wheel cache of tools/setup.sh.
# STABLEQAT_LIBTORCH is the folder that holds include/ and lib/.

set(_libtorch_version 2.11.0)

include("${CMAKE_CURRENT_LIST_DIR}/WheelCache.cmake")
stableqat_wheel_folder(STABLEQAT_LIBTORCH "libtorch-${_libtorch_version}/torch")

# A build folder made with another LibTorch must not keep it.
if(LibTorch_INCLUDE_DIR AND NOT LibTorch_INCLUDE_DIR STREQUAL "${STABLEQAT_LIBTORCH}/include")
  foreach(_variable LibTorch_INCLUDE_DIR LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_gomp_LIBRARY)
    unset(${_variable} CACHE)
  endforeach()
endif()

find_path(LibTorch_INCLUDE_DIR ATen/ATen.h PATHS "${STABLEQAT_LIBTORCH}/include" NO_DEFAULT_PATH)
foreach(_lib torch_cpu c10)
  find_library(LibTorch_${_lib}_LIBRARY ${_lib} PATHS "${STABLEQAT_LIBTORCH}/lib" NO_DEFAULT_PATH)
endforeach()
# The OpenMP runtime must be the one LibTorch loads, or two thread pools would fight for the cores.
find_file(LibTorch_gomp_LIBRARY NAMES libgomp.so.1 PATHS "${STABLEQAT_LIBTORCH}/lib" NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  LibTorch
  REQUIRED_VARS LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "run tools/setup.sh, or set STABLEQAT_LIBTORCH to the folder with LibTorch's include/ and lib/")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  add_library(LibTorch::c10 SHARED IMPORTED)
  set_target_properties(LibTorch::c10 PROPERTIES IMPORTED_LOCATION "${LibTorch_c10_LIBRARY}")
  add_library(LibTorch::cpu SHARED IMPORTED)
  set_target_properties(
    LibTorch::cpu
    PROPERTIES IMPORTED_LOCATION "${LibTorch_torch_cpu_LIBRARY}"
               INTERFACE_INCLUDE_DIRECTORIES "${LibTorch_INCLUDE_DIR};${LibTorch_INCLUDE_DIR}/torch/csrc/api/include"
               INTERFACE_LINK_LIBRARIES LibTorch::c10)
  # Without it TensorOperators.h pulls in every operator's header: 10 s more a file.
  set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS AT_PER_OPERATOR_HEADERS)
  # libtorch_cpu.so finds libcudart and libcupti of the wheels by its own RPATH; the linker must not insist on resolving them.
  set_property(TARGET LibTorch::cpu APPEND PROPERTY INTERFACE_LINK_OPTIONS "LINKER:--allow-shlib-undefined")
  add_library(LibTorch::openmp INTERFACE IMPORTED)
  if(LibTorch_gomp_LIBRARY)
    target_link_libraries(LibTorch::openmp INTERFACE "${LibTorch_gomp_LIBRARY}")
  else()
    target_link_libraries(LibTorch::openmp INTERFACE gomp)
  endif()
  target_compile_options(LibTorch::openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
endif()
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_gomp_LIBRARY)
