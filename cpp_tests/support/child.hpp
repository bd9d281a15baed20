// Child processes made by fork.

#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <exception>

#include "eventually.hpp"

namespace support {

// A fork of this process that runs `body`, with expectations of its own, and ends.
class Child {
  public:
    template <class Body> explicit Child(Body body) {
        std::fflush(nullptr);
        pid_ = fork();
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            run(body);
            const bool failed = testing::Test::HasFailure();
            std::fflush(nullptr);
            // Runs no destructors: what was inherited is the parent's.
            _exit(failed ? 1 : 0);
        }
    }
    ~Child() { kill(); }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;

    // Waits for its end. A child that hangs is killed.
    testing::AssertionResult succeeded() {
        int status = 0;
        if (!eventually([&] { return waitpid(pid_, &status, WNOHANG) != 0; })) {
            kill();
            return testing::AssertionFailure() << "the child hangs";
        }
        pid_ = -1;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            return testing::AssertionSuccess();
        }
        return testing::AssertionFailure() << "the child failed, with wait status " << status;
    }

    // Without a chance to say good-bye.
    void kill() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
            pid_ = -1;
        }
    }

    pid_t pid() const { return pid_; }

  private:
    template <class Body> static void run(Body &body) {
        try {
            body();
        } catch (const std::exception &error) {
            ADD_FAILURE() << "in the child: " << error.what();
        }
    }

    pid_t pid_ = -1;
};

} // namespace support
