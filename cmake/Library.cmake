# The library: cargo builds it, two imported targets name it.

find_program(PITA_REDIS_CARGO cargo HINTS "$ENV{CARGO_HOME}/bin" "$ENV{HOME}/.cargo/bin" DOC "The cargo that builds the library")
if(NOT PITA_REDIS_CARGO)
  message(FATAL_ERROR "cargo was not found. Install Rust (https://rustup.rs), or set PITA_REDIS_CARGO to its path.")
endif()
set(PITA_REDIS_CARGO_TARGET_DIR "${CMAKE_CURRENT_BINARY_DIR}/cargo" CACHE PATH "Where cargo puts what it builds")
# With a target named, RUSTFLAGS are for the library alone, not for what runs within the build: sanitizers need that.
set(PITA_REDIS_CARGO_TARGET "" CACHE STRING "Cargo's --target; empty: this machine's")

# The soname's number is build.rs's.
set(pita_redis_soname libpita_redis.so.0)
set(pita_redis_file libpita_redis.so.${PROJECT_VERSION})
set(pita_redis_lib_dir "${PROJECT_BINARY_DIR}/lib")
set(pita_redis_shared "${pita_redis_lib_dir}/${pita_redis_file}")
set(pita_redis_static "${pita_redis_lib_dir}/libpita_redis.a")
set(cargo_target "")
if(PITA_REDIS_CARGO_TARGET)
  set(cargo_target --target "${PITA_REDIS_CARGO_TARGET}")
endif()
set(cargo_output "${PITA_REDIS_CARGO_TARGET_DIR}/${PITA_REDIS_CARGO_TARGET}/release")

# What the Rust standard library needs beside libc: `rustc --print native-static-libs`, less the libraries that every
# glibc since 2.34 has inside. Older ones still want them, and for newer ones they cost nothing.
set(pita_redis_static_libs gcc_s util rt pthread m dl c)

# Links laid out as an installation has them, so that a program linked in the build tree finds the soname.
file(MAKE_DIRECTORY "${pita_redis_lib_dir}")
file(CREATE_LINK ${pita_redis_file} "${pita_redis_lib_dir}/${pita_redis_soname}" SYMBOLIC)
file(CREATE_LINK ${pita_redis_soname} "${pita_redis_lib_dir}/libpita_redis.so" SYMBOLIC)

# Always asks cargo, which knows best what is out of date. A library that did not change keeps its time, so nothing is
# linked again. Only without the Rust library among the crate types does rustc optimize across crates. Make's job server
# would not reach cargo: rustc is told not to look for it.
add_custom_target(
  pita_redis_cargo ALL
  COMMAND
    "${CMAKE_COMMAND}" -E env --unset=MAKEFLAGS --unset=MFLAGS
    "${PITA_REDIS_CARGO}" rustc --release --locked --lib --crate-type cdylib,staticlib
    ${cargo_target} --target-dir "${PITA_REDIS_CARGO_TARGET_DIR}"
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${cargo_output}/libpita_redis.so" "${pita_redis_shared}"
  COMMAND "${CMAKE_COMMAND}" -E copy_if_different "${cargo_output}/libpita_redis.a" "${pita_redis_static}"
  BYPRODUCTS "${pita_redis_shared}" "${pita_redis_static}"
  WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
  COMMENT "cargo builds libpita_redis"
  VERBATIM
)

add_library(pita_redis::pita_redis SHARED IMPORTED GLOBAL)
set_target_properties(
  pita_redis::pita_redis
  PROPERTIES
    IMPORTED_LOCATION "${pita_redis_shared}"
    IMPORTED_SONAME ${pita_redis_soname}
)

add_library(pita_redis::static STATIC IMPORTED GLOBAL)
set_target_properties(
  pita_redis::static
  PROPERTIES
    IMPORTED_LOCATION "${pita_redis_static}"
    INTERFACE_LINK_LIBRARIES "${pita_redis_static_libs}"
)

foreach(library IN ITEMS pita_redis static)
  target_include_directories(pita_redis::${library} INTERFACE "${PROJECT_SOURCE_DIR}/include")
  add_dependencies(pita_redis::${library} pita_redis_cargo)
endforeach()
