find_package(CLI11 2.1 REQUIRED)
add_executable(compare_model golden/compare_model.cc)
target_link_libraries(compare_model PRIVATE stableqat::train CLI11::CLI11)
stableqat_test_options(compare_model TRUE)
stableqat_warnings(compare_model)

# The golden numbers of SmolLM2-135M. compare_model exits with 77 where the model is not on this machine.
set(golden "${CMAKE_CURRENT_SOURCE_DIR}/golden/data")
add_test(NAME compare_model.float32 COMMAND compare_model "${golden}/smollm2.json" --settings none_16,stableqat_3,dsq_3)
add_test(NAME compare_model.int8x2 COMMAND compare_model "${golden}/smollm2.json" --products int8x2 --settings stableqat_4)
add_test(NAME compare_model.float64 COMMAND compare_model "${golden}/smollm2_float64.json" --dtype float64 --settings stableqat_3 --steps 2)
set_tests_properties(compare_model.float32 compare_model.int8x2 compare_model.float64 PROPERTIES LABELS torch SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)
add_test(NAME compare_model.float32_all COMMAND compare_model "${golden}/smollm2.json" --settings
                                                  none_16,ste_3,stableqat_2,stableqat_3,stableqat_4,dsq_3)
add_test(NAME compare_model.float64_all COMMAND compare_model "${golden}/smollm2_float64.json" --dtype float64)
set_tests_properties(compare_model.float32_all compare_model.float64_all PROPERTIES LABELS "long;torch" SKIP_RETURN_CODE 77 RUN_SERIAL TRUE)

add_library(test_support STATIC support/tiny_model.cc)
target_link_libraries(test_support PUBLIC stableqat::models)
stableqat_test_options(test_support TRUE)
stableqat_warnings(test_support)

stableqat_test(causal_attention_test SOURCES unit/causal_attention_test.cc LINK stableqat::models)
stableqat_test(
  models_test
  SOURCES unit/activation_rounding_test.cc
          unit/functional_test.cc
          unit/logit_loss_test.cc
          unit/models_linear_test.cc
          unit/models_test.cc
          unit/sampler_test.cc
  LINK test_support stableqat::eval nlohmann_json::nlohmann_json)
stableqat_test(model_families_test SOURCES unit/model_families_test.cc LINK stableqat::train)
stableqat_test(train_step_test SOURCES unit/train_step_test.cc LINK test_support stableqat::train)
stableqat_test(gpu_training_test FAKE_GPU SOURCES unit/gpu_fp8_test.cc unit/gpu_graph_test.cc unit/gpu_training_test.cc LINK test_support stableqat::bench)
target_include_directories(gpu_training_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
stableqat_test(gpu_trainer_test FAKE_GPU SOURCES unit/gpu_trainer_test.cc LINK test_support stableqat::train nlohmann_json::nlohmann_json)
if(STABLEQAT_HAS_CUDA)
  stableqat_test(cuda_training_test SOURCES unit/gpu_fp8_test.cc unit/gpu_graph_test.cc unit/gpu_training_test.cc LINK test_support stableqat::bench)
  target_include_directories(cuda_training_test PRIVATE "${PROJECT_SOURCE_DIR}/src")
  target_compile_definitions(cuda_training_test PRIVATE STABLEQAT_REAL_GPU)
endif()
stableqat_test(run_plan_test SOURCES unit/run_plan_test.cc LINK test_support stableqat::train)
stableqat_test(train_settings_test SOURCES unit/train_settings_test.cc LINK stableqat::train)
stableqat_test(sharded_step_test SOURCES unit/sharded_step_test.cc LINK test_support stableqat::train)
stableqat_test(event_file_test SOURCES unit/event_file_test.cc LINK stableqat::train)

if(STABLEQAT_BUILD_APPS)
  add_library(fault_shim MODULE support/fault_shim.cc)
  target_compile_features(fault_shim PRIVATE cxx_std_20)
  target_link_libraries(fault_shim PRIVATE ${CMAKE_DL_LIBS})
  stableqat_warnings(fault_shim)
  stableqat_test(train_test SOURCES integration/train_test.cc LINK test_support)
  target_compile_definitions(train_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(train_test stableqat)
  stableqat_test(distributed_test SOURCES integration/distributed_test.cc LINK test_support)
  target_compile_definitions(distributed_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>"
                                                      STABLEQAT_FAULT_SHIM="$<TARGET_FILE:fault_shim>")
  add_dependencies(distributed_test stableqat fault_shim)
  stableqat_test(distributed_faults_test SOURCES integration/distributed_faults_test.cc LINK test_support)
  stableqat_test(distributed_faults_long_test SOURCES integration/distributed_faults_test.cc LINK test_support LABELS long)
  foreach(test distributed_faults_test distributed_faults_long_test)
    target_compile_definitions(${test} PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>" STABLEQAT_FAULT_SHIM="$<TARGET_FILE:fault_shim>")
    add_dependencies(${test} stableqat fault_shim)
  endforeach()
  target_compile_definitions(distributed_faults_test PRIVATE STABLEQAT_FAULTS=2)
  target_compile_definitions(distributed_faults_long_test PRIVATE STABLEQAT_FAULTS=50)
  stableqat_test(authors_files_test SOURCES integration/authors_files_test.cc LINK test_support)
  target_compile_definitions(authors_files_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(authors_files_test stableqat)
  stableqat_test(model_starts_test SOURCES integration/model_starts_test.cc LINK test_support)
  target_compile_definitions(model_starts_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(model_starts_test stableqat)
  stableqat_test(tokenize_cli_test SOURCES integration/tokenize_test.cc LINK test_support)
  target_compile_definitions(tokenize_cli_test PRIVATE STABLEQAT_PROGRAM="$<TARGET_FILE:stableqat>")
  add_dependencies(tokenize_cli_test stableqat)
endif()
