# All GoogleTests once more under valgrind: a bad access, an uninitialised value, or memory that nobody can reach fails.

find_program(VALGRIND valgrind)
if(NOT VALGRIND)
  message(STATUS "No valgrind: the test memcheck is left out")
  return()
endif()

set(forking Fork*:LogCallback.*)
# Thousands of cuts take minutes under valgrind; a part of them will do. Failovers take their time, whatever is tested.
set(long */OpenConnection.*:*/NewConnection.*:Sentinel*:*ClusterFailover.*:ClusterMigration.*:ClusterTls.*)
# Tests that fork are apart. To valgrind, what a child inherits from threads that it does not have is leaked.
set(valgrind "${VALGRIND}" --quiet --error-exitcode=99 --suppressions=${CMAKE_CURRENT_SOURCE_DIR}/valgrind.supp)
set(leaks --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite)
set(tests $<TARGET_FILE:pita_redis_tests> --gtest_brief=1)
add_test(NAME memcheck COMMAND ${valgrind} ${leaks} ${tests} --gtest_filter=-${forking}:${long})
add_test(NAME memcheck.fork COMMAND ${valgrind} --leak-check=no ${tests} --gtest_filter=${forking})

# The longest by far: CTest starts them first.
set_tests_properties(memcheck memcheck.fork PROPERTIES TIMEOUT 1200 COST 1000)
