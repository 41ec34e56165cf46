# A GPU for tests on machines without one: libstableqat_cuda.so on the host, and a LibTorch device in host memory.
set(stableqat_cuda_on_host_folder "${CMAKE_BINARY_DIR}/tests/cuda_on_host")

# What both write captured work to.
add_library(fake_gpu_recording SHARED support/fake_gpu_recording.cc)
target_compile_features(fake_gpu_recording PRIVATE cxx_std_20)
set_target_properties(fake_gpu_recording PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${stableqat_cuda_on_host_folder}")
stableqat_warnings(fake_gpu_recording)

add_library(stableqat_cuda_on_host SHARED support/cuda_on_host.cc)
target_link_libraries(stableqat_cuda_on_host PRIVATE fake_gpu_recording)
set_target_properties(
  stableqat_cuda_on_host
  PROPERTIES OUTPUT_NAME stableqat_cuda
             CXX_VISIBILITY_PRESET hidden
             LIBRARY_OUTPUT_DIRECTORY "${stableqat_cuda_on_host_folder}")
target_compile_features(stableqat_cuda_on_host PRIVATE cxx_std_20)
# As the CPU kernels: their bits.
target_compile_options(stableqat_cuda_on_host PRIVATE -ffp-contract=off)
target_include_directories(stableqat_cuda_on_host PRIVATE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
stableqat_warnings(stableqat_cuda_on_host)

add_library(fake_gpu STATIC support/fake_gpu.cc support/fake_gpu_operators.cc)
target_link_libraries(fake_gpu PUBLIC LibTorch::cpu fake_gpu_recording)
stableqat_test_options(fake_gpu TRUE)
stableqat_warnings(fake_gpu)

# CUDA graphs of that device, in the place of LibTorch's.
add_library(stableqat_cuda_graph_on_host SHARED support/cuda_graph_on_host.cc)
target_link_libraries(stableqat_cuda_graph_on_host PRIVATE stableqat::base LibTorch::cpu fake_gpu_recording)
target_include_directories(stableqat_cuda_graph_on_host PRIVATE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
set_target_properties(stableqat_cuda_graph_on_host PROPERTIES OUTPUT_NAME stableqat_cuda_graph CXX_VISIBILITY_PRESET hidden
                                                              LIBRARY_OUTPUT_DIRECTORY "${stableqat_cuda_on_host_folder}")
stableqat_warnings(stableqat_cuda_graph_on_host)

# Links fake_gpu.h, and lets cuda_backend() of TARGET, and of programs that its tests start, open the library on the host in the place of one that was built for
# GPUs. The path in TARGET replaces the build's own, which would lead to that one; `properties` becomes what its tests need besides.
function(stableqat_use_fake_gpu target properties)
  target_link_libraries(${target} PRIVATE fake_gpu)
  add_dependencies(${target} stableqat_cuda_on_host stableqat_cuda_graph_on_host)
  set_target_properties(${target} PROPERTIES BUILD_RPATH "${stableqat_cuda_on_host_folder}")
  set(${properties} ENVIRONMENT_MODIFICATION "LD_LIBRARY_PATH=path_list_prepend:${stableqat_cuda_on_host_folder}" PARENT_SCOPE)
endfunction()

stableqat_test(fake_gpu_test FAKE_GPU SOURCES unit/cuda_on_host_test.cc unit/fake_gpu_capture_test.cc unit/fake_gpu_test.cc unit/kernels_cuda_test.cc LINK stableqat::quant)
target_include_directories(fake_gpu_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
