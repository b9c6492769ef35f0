// What a pool promises, one case per run of this program: pool_cases CASE THREADS. Says what does not hold, and fails.

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include "pool.h"

using tiercel::Worker;
using Job = std::function<void(const Worker &)>;

namespace {

constexpr int kMost = 64;

struct Destroy {
    void operator()(tiercel_pool *pool) const { tiercel_pool_destroy(pool); }
};
using Pool = std::unique_ptr<tiercel_pool, Destroy>;

Pool make(int threads) { return Pool(tiercel_pool_create(threads, TIERCEL_AVX2)); }

void run(const Pool &pool, const Job &job) {
    void *context = const_cast<Job *>(&job);
    pool->team.run([](void *it, const Worker &worker) { (*static_cast<const Job *>(it))(worker); }, context);
}

void check(bool holds, const char *what) {
    if (holds) return;
    std::fprintf(stderr, "does not hold: %s\n", what);
    std::exit(1);
}

int tasks() {
    int count = -2;  // . and ..
    DIR *folder = opendir("/proc/self/task");
    while (readdir(folder)) count++;
    closedir(folder);
    return count;
}

void every_thread_runs_once(int threads) {
    Pool pool = make(threads);
    int calls[kMost] = {};  // no atomics: a run that returns early would race
    for (int i = 1; i <= 1000; i++) {
        run(pool, [&](const Worker &worker) {
            check(worker.threads == threads, "worker.threads");
            calls[worker.index]++;
        });
        for (int index = 0; index < threads; index++) check(calls[index] == i, "one call per thread and run");
    }
}

void barriers_hold_all(int threads) {
    Pool pool = make(threads);
    int round[kMost] = {};
    run(pool, [&](const Worker &worker) {
        for (int i = 1; i <= 300; i++) {
            round[worker.index] = i;
            worker.barrier();
            for (int other = 0; other < threads; other++) check(round[other] == i, "nobody passes before all are there");
            worker.barrier();
        }
    });
}

void working_memory(int threads) {
    Pool pool = make(threads);
    uint8_t *own[kMost] = {};
    for (int bytes : {1, 100, 100'000, 64, 3'000'000}) {
        run(pool, [&](const Worker &worker) {
            uint8_t *mine = own[worker.index] = worker.scratch(bytes), *common = worker.shared(bytes);
            check(reinterpret_cast<uintptr_t>(mine) % 64 == 0 && reinterpret_cast<uintptr_t>(common) % 64 == 0, "alignment");
            check(mine != common && worker.shared(1) == common && worker.scratch(1) == mine, "the same memory for less");
            std::memset(mine, worker.index, bytes);
            if (worker.index == threads - 1) std::memset(common, bytes % 251, bytes);
            worker.barrier();
            check(common[0] == bytes % 251 && common[bytes - 1] == bytes % 251, "shared by all");
            check(mine[0] == worker.index && mine[bytes - 1] == worker.index, "a thread's own");
        });
    }
    run(pool, [&](const Worker &worker) { check(worker.scratch(64) == own[worker.index], "kept between runs"); });
}

void denormals_are_flushed(int threads) {
    volatile float tiny = 1e-40f;
    Pool pool = make(threads);
    run(pool, [&](const Worker &) { check(tiny * 1.0f == 0.0f, "no denormals in a run"); });
    check(tiny * 1.0f != 0.0f, "the caller's own mode is back");
}

void a_forked_child_has_threads_of_its_own(int threads) {
    Pool pool = make(threads);
    std::atomic<int> calls{0};
    const Job count = [&](const Worker &worker) {
        worker.barrier();
        worker.shared(1000)[0] = 0;
        calls++;
    };
    run(pool, count);
    for (bool runs : {true, false}) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            calls = 0;
            for (int i = 0; runs && i < 10; i++) run(pool, count);
            check(calls == (runs ? 10 * threads : 0) && tasks() == (runs ? threads : 1), "as many calls and threads");
            pool.reset();
            check(tasks() == 1, "threads end in the child, too");
            std::_Exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ends well");
    }
    run(pool, count);
    check(calls == 2 * threads, "the parent goes on");
}

void waiting_threads_sleep(int threads) {
    Pool pool = make(threads);
    run(pool, [](const Worker &) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    auto used = [] {
        rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    };
    const double before = used();
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    check(used() - before < 0.1, "no processor time between runs");
    int late = 0;
    run(pool, [&](const Worker &worker) {
        if (worker.index == threads - 1) {
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            late = 1;
        }
        worker.barrier();
        check(late == 1, "sleepers at a barrier wake in time");
    });
}

void signals_stay_with_the_caller(int threads) {
    Pool pool = make(threads);
    run(pool, [&](const Worker &worker) {
        sigset_t blocked;
        pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        const bool own = worker.index > 0;
        check(sigismember(&blocked, SIGINT) == own && sigismember(&blocked, SIGSEGV) == 0, "signals of workers");
    });
}

void threads_end_with_their_pool(int threads) {
    std::thread([] {}).join();  // a sanitizer may start a thread of its own with the first
    const int before = tasks();
    for (int i = 0; i < 20; i++) {
        Pool pool = make(threads);
        if (i % 2) run(pool, [](const Worker &) {});
        check(tasks() == before + threads - 1, "one thread is the caller's");
    }
    check(tasks() == before, "no thread is left");
}

void nonsense_is_refused(int) {
    check(!make(0) && !make(-1), "a number of threads");
    check(!tiercel_pool_create(1, -1) && !tiercel_pool_create(1, TIERCEL_LEVELS), "a level that this machine lacks");
}

const std::map<std::string, void (*)(int)> kCases = {
    {"every_thread_runs_once", every_thread_runs_once},
    {"barriers_hold_all", barriers_hold_all},
    {"working_memory", working_memory},
    {"denormals_are_flushed", denormals_are_flushed},
    {"a_forked_child_has_threads_of_its_own", a_forked_child_has_threads_of_its_own},
    {"waiting_threads_sleep", waiting_threads_sleep},
    {"signals_stay_with_the_caller", signals_stay_with_the_caller},
    {"threads_end_with_their_pool", threads_end_with_their_pool},
    {"nonsense_is_refused", nonsense_is_refused},
};

}  // namespace

int main(int, char **arguments) {
    kCases.at(arguments[1])(std::atoi(arguments[2]));
    return 0;
}
