# cmake --install: program, headers, static libraries, and a CMake package with the target stableqat::stableqat (all modules) and one
# target per module (stableqat::base, ...).
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/stableqat")
get_target_property(modules stableqat_all INTERFACE_LINK_LIBRARIES)

install(TARGETS stableqat_all ${modules} EXPORT stableqat ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(EXPORT stableqat NAMESPACE stableqat:: FILE stableqatTargets.cmake DESTINATION "${package_dir}")
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/stableqat" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
if(TARGET stableqat)
  install(TARGETS stableqat RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
endif()
if(TARGET stableqat_nccl)
  install(TARGETS stableqat_nccl LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
if(TARGET stableqat_cuda)
  install(TARGETS stableqat_cuda stableqat_cuda_graph LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()

configure_package_config_file("${CMAKE_CURRENT_LIST_DIR}/stableqatConfig.cmake.in" "${PROJECT_BINARY_DIR}/stableqatConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/stableqatConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/stableqatConfig.cmake" "${PROJECT_BINARY_DIR}/stableqatConfigVersion.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/Dependencies.cmake" "${CMAKE_CURRENT_LIST_DIR}/FindLibTorch.cmake" "${CMAKE_CURRENT_LIST_DIR}/FindArrowWheel.cmake"
              "${CMAKE_CURRENT_LIST_DIR}/WheelCache.cmake" DESTINATION "${package_dir}")
