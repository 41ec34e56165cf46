# Finds Arrow C++ (with Parquet) of the pyarrow wheel and makes the imported target ArrowWheel::parquet.
#
# Looked up in this order: STABLEQAT_ARROW (cache variable, then environment variable), the wheel cache of tools/setup.sh.
# STABLEQAT_ARROW is the folder that holds include/ and libarrow.so.*, libparquet.so.*.

set(_arrow_version 26.0.1)
set(_arrow_soversion 2600)

include("${CMAKE_CURRENT_LIST_DIR}/WheelCache.cmake")
stableqat_wheel_folder(STABLEQAT_ARROW "arrow-${_arrow_version}/pyarrow")

find_path(ArrowWheel_INCLUDE_DIR parquet/arrow/reader.h PATHS "${STABLEQAT_ARROW}/include" NO_DEFAULT_PATH)
find_file(ArrowWheel_arrow_LIBRARY NAMES libarrow.so.${_arrow_soversion} PATHS "${STABLEQAT_ARROW}" NO_DEFAULT_PATH)
find_file(ArrowWheel_parquet_LIBRARY NAMES libparquet.so.${_arrow_soversion} PATHS "${STABLEQAT_ARROW}" NO_DEFAULT_PATH)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  ArrowWheel
  REQUIRED_VARS ArrowWheel_parquet_LIBRARY ArrowWheel_arrow_LIBRARY ArrowWheel_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "run tools/setup.sh, or set STABLEQAT_ARROW to pyarrow's folder with include/ and libarrow.so.${_arrow_soversion}")

if(ArrowWheel_FOUND AND NOT TARGET ArrowWheel::parquet)
  add_library(ArrowWheel::arrow SHARED IMPORTED)
  set_target_properties(ArrowWheel::arrow PROPERTIES IMPORTED_LOCATION "${ArrowWheel_arrow_LIBRARY}"
                                                     INTERFACE_INCLUDE_DIRECTORIES "${ArrowWheel_INCLUDE_DIR}")
  add_library(ArrowWheel::parquet SHARED IMPORTED)
  set_target_properties(ArrowWheel::parquet PROPERTIES IMPORTED_LOCATION "${ArrowWheel_parquet_LIBRARY}"
                                                       INTERFACE_LINK_LIBRARIES ArrowWheel::arrow)
endif()
