# PITA's own reader and writer, played with its own client: redis-py.

# The first python3 of PATH may be a version manager's, without the system's modules.
foreach(candidate IN ITEMS python3 /usr/bin/python3)
  execute_process(COMMAND ${candidate} -c "import redis" RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
  if(failed EQUAL 0)
    set(PYTHON_WITH_REDIS ${candidate})
    break()
  endif()
endforeach()
if(NOT PYTHON_WITH_REDIS)
  message(FATAL_ERROR "The tests need a python3 that can `import redis` (Debian: python3-redis).")
endif()

add_test(NAME pita_compat COMMAND ${PYTHON_WITH_REDIS} -B "${PROJECT_SOURCE_DIR}/tests/pita_compat.py")
set_tests_properties(
  pita_compat
  PROPERTIES
    TIMEOUT 60
    ENVIRONMENT "PITA_REDIS_LIBRARY=$<TARGET_FILE:pita_redis::pita_redis>"
)
