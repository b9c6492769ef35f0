// A pool of threads that run one function together. The calling thread is one of them; a thread that waits spins for some tens
// of microseconds, then sleeps.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "kernels.h"

namespace tiercel {

// The threads of one job, and what they share.
class Team {
  public:
    Team(int32_t threads, int32_t level);
    ~Team();  // ends the threads

    bool ready() const;  // whether all threads could be started
    int32_t threads() const;
    int32_t level() const;

    // Calls run(context, worker) once on every thread and returns when all have. `worker.counter` is null: who needs counters
    // makes a Worker with one. Denormals are flushed in all threads for the time of the call. Tiles are left as they are: a
    // kernel that uses them configures and releases them itself (tile.h). In a forked child the first call starts new threads.
    void run(void (*run)(void *context, const Worker &worker), void *context);

    // What `Worker` offers; see there.
    void barrier();
    uint8_t *scratch(int32_t index, int64_t bytes);
    uint8_t *shared(int32_t index, int64_t bytes);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace tiercel

struct tiercel_pool {
    tiercel::Team team;
};
