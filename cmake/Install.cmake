# What an installation has. Every path in it is relative, so that it can be moved.

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# As programs, for the x bit: ldd and debuggers complain about a shared library without it.
install(
  PROGRAMS
    "${pita_redis_shared}"
    "${pita_redis_lib_dir}/${pita_redis_soname}"
    "${pita_redis_lib_dir}/libpita_redis.so"
  DESTINATION "${CMAKE_INSTALL_LIBDIR}"
)
install(FILES "${pita_redis_static}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(FILES include/pita_redis.h include/pita_redis.hpp DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(FILES LICENSE-MIT LICENSE-APACHE DESTINATION "${CMAKE_INSTALL_DOCDIR}")

# In a Python wheel, beside the modules.
install(PROGRAMS "${pita_redis_shared}" DESTINATION . RENAME ${pita_redis_soname} COMPONENT python EXCLUDE_FROM_ALL)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/pita_redis")
configure_package_config_file(
  cmake/pita_redisConfig.cmake.in "${PROJECT_BINARY_DIR}/pita_redisConfig.cmake"
  INSTALL_DESTINATION "${package_dir}"
  PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_INCLUDEDIR
  NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO
)
# The soname's number has not changed since 0.1, so any 0.x can stand in for an older one.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/pita_redisConfigVersion.cmake" COMPATIBILITY SameMajorVersion)
install(
  FILES "${PROJECT_BINARY_DIR}/pita_redisConfig.cmake" "${PROJECT_BINARY_DIR}/pita_redisConfigVersion.cmake"
  DESTINATION "${package_dir}"
)

file(RELATIVE_PATH pc_to_prefix "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")
file(RELATIVE_PATH pc_to_include "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig" "${CMAKE_INSTALL_FULL_INCLUDEDIR}")
list(TRANSFORM pita_redis_static_libs PREPEND "-l" OUTPUT_VARIABLE pc_libs_private)
list(JOIN pc_libs_private " " pc_libs_private)
configure_file(cmake/pita_redis.pc.in "${PROJECT_BINARY_DIR}/pita_redis.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/pita_redis.pc" DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
