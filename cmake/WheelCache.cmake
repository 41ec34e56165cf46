# Where tools/setup.sh has put what it took out of wheels.

# Sets VARIABLE, unless it is set, to the environment variable of its name or, without one, to FOLDER of the wheel cache.
macro(stableqat_wheel_folder variable folder)
  if(NOT ${variable} AND DEFINED ENV{${variable}})
    set(${variable} "$ENV{${variable}}")
  endif()
  if(NOT ${variable})
    if(DEFINED ENV{STABLEQAT_CACHE})
      set(_stableqat_cache "$ENV{STABLEQAT_CACHE}")
    elseif(DEFINED ENV{XDG_CACHE_HOME})
      set(_stableqat_cache "$ENV{XDG_CACHE_HOME}/stableqat")
    else()
      set(_stableqat_cache "$ENV{HOME}/.cache/stableqat")
    endif()
    set(${variable} "${_stableqat_cache}/${folder}")
  endif()
endmacro()
