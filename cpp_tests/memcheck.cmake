# All GoogleTests once more under valgrind: a bad access, an uninitialised value, or memory that nobody can reach fails.

find_program(VALGRIND valgrind)
if(NOT VALGRIND)
  message(STATUS "No valgrind: the test memcheck is left out")
  return()
endif()

add_test(
  NAME memcheck
  COMMAND
    "${VALGRIND}" --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite
    --errors-for-leak-kinds=definite $<TARGET_FILE:pita_redis_tests> --gtest_brief=1
)
# The longest by far: CTest starts it first.
set_tests_properties(memcheck PROPERTIES TIMEOUT 1200 COST 1000)
