stableqat_test(
  dist_test
  SOURCES unit/dist_communicator_test.cc unit/dist_launch_environment_test.cc unit/dist_launcher_test.cc unit/dist_nccl_test.cc
  LINK stableqat::dist)
