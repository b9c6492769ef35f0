// The thread pool.
//
// Between runs the workers wait for `start_`. A run stores its function, moves `start_` on, does the calling thread's part and
// waits at the barrier; a worker that is done only reports there and goes back to waiting for the next start. The same barrier
// serves within a job, where every thread waits. Both stand on `Signal`, a number that changes: whoever waits for it spins for
// at most kSpin and then sleeps in the kernel (futex), and whoever changes it makes a system call only if somebody sleeps.
// With more threads than processors nobody spins: the thread that is waited for needs the processor.
//
// Nothing is allocated in a run, except where a job asks for more working memory than any before it.

#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace tiercel {
namespace {

constexpr std::chrono::microseconds kSpin(50);
constexpr uint32_t kFlushDenormals = 0x8040;  // MXCSR: flush to zero (bit 15), denormals are zero (bit 6)

// A number that threads wait for. It has a cache line of its own, which changes hands once per change.
class alignas(64) Signal {
  public:
    uint32_t value() const { return value_.load(std::memory_order_acquire); }

    // A sleeper counts itself before the kernel compares the value, and the value changes before sleepers are counted: either
    // the sleeper meets the new value or is seen here.
    void set(uint32_t value) {
        value_.store(value);
        if (sleepers_.load() > 0) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
    }

    void wait_while(uint32_t old, bool spin) {
        if (spin && changes_soon(old)) return;
        sleepers_.fetch_add(1);
        while (value() == old) futex(FUTEX_WAIT_PRIVATE, old);
        sleepers_.fetch_sub(1);
    }

  private:
    bool changes_soon(uint32_t old) const {
        using Clock = std::chrono::steady_clock;
        Clock::time_point end{};
        do {
            for (int i = 0; i < 32; i++) {
                if (value() != old) return true;
                _mm_pause();
            }
            if (end == Clock::time_point{}) end = Clock::now() + kSpin;
        } while (Clock::now() < end);
        return false;
    }

    void futex(int operation, uint32_t argument) {
        syscall(SYS_futex, reinterpret_cast<uint32_t *>(&value_), operation, argument, nullptr, nullptr, 0);
    }

    std::atomic<uint32_t> value_{0};
    std::atomic<uint32_t> sleepers_{0};
};
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

class Barrier {
  public:
    Barrier(int32_t threads, bool spin) : threads_(threads), spin_(spin), missing_(threads) {}

    void arrive() {
        if (missing_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
        missing_.store(threads_, std::memory_order_relaxed);  // nobody can arrive again before the signal
        passed_.set(passed_.value() + 1);
    }

    void wait() {
        uint32_t passed = passed_.value();  // cannot change before this thread arrives
        arrive();
        passed_.wait_while(passed, spin_);
    }

  private:
    const int32_t threads_;
    const bool spin_;
    alignas(64) std::atomic<int32_t> missing_;
    Signal passed_;
};

class Memory {
  public:
    Memory() = default;
    Memory(const Memory &) = delete;
    ~Memory() { operator delete(data_, kAlignment); }

    uint8_t *data() const { return data_; }
    int64_t bytes() const { return bytes_; }

    // What was there before is gone. Half as much again, so that sizes that creep up do not allocate each time.
    void grow(int64_t bytes) {
        operator delete(data_, kAlignment);
        data_ = nullptr;
        bytes_ = bytes + bytes / 2;
        data_ = static_cast<uint8_t *>(operator new(bytes_, kAlignment));
    }

  private:
    static constexpr std::align_val_t kAlignment{64};
    uint8_t *data_ = nullptr;
    int64_t bytes_ = 0;
};

// What belongs to one thread.
struct alignas(64) Place {
    Memory scratch;
    int64_t shared_bytes = 0;  // the size of the shared memory, as this thread knows it
};

int32_t processors() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int32_t(std::thread::hardware_concurrency());
}

// Keeps the signals of the process away from threads that are started meanwhile: they belong to the threads that Python knows.
// Those that a thread raises itself by an error stay.
class SignalsBlocked {
  public:
    SignalsBlocked() {
        sigset_t set;
        sigfillset(&set);
        for (int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT}) sigdelset(&set, own);
        pthread_sigmask(SIG_BLOCK, &set, &before_);
    }
    ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_;
};

}  // namespace

// All that a forked child has to leave behind: its copy speaks of threads that it does not have.
struct Team::State {
    State(Team &team, int32_t threads, int32_t level)
        : team(team), level(level), process(getpid()), spin(threads <= processors()), places(threads), barrier(threads, spin) {
        SignalsBlocked blocked;
        try {
            for (int32_t index = 1; index < threads; index++) workers.emplace_back([this, index] { serve(index); });
        } catch (const std::system_error &) {
        }
    }

    ~State() {
        run = nullptr;
        start.set(start.value() + 1);
        for (std::thread &worker : workers) worker.join();
    }

    int32_t threads() const { return int32_t(places.size()); }
    bool ready() const { return workers.size() + 1 == places.size(); }
    bool inherited() const { return process != getpid(); }
    Worker worker(int32_t index) { return {index, threads(), nullptr, &team}; }

    void serve(int32_t index) {
        pthread_setname_np(pthread_self(), ("tiercel-" + std::to_string(index)).c_str());
        _mm_setcsr(_mm_getcsr() | kFlushDenormals);
        for (uint32_t seen = 0;; seen++) {
            start.wait_while(seen, spin);
            if (!run) return;
            run(context, worker(index));
            barrier.arrive();
        }
    }

    Team &team;
    const int32_t level;
    const pid_t process;
    const bool spin;
    void (*run)(void *, const Worker &) = nullptr;  // null: the workers end
    void *context = nullptr;
    std::vector<Place> places;
    Memory shared;
    Barrier barrier;
    Signal start;  // the number of runs
    std::vector<std::thread> workers;
};

Team::Team(int32_t threads, int32_t level) : state_(std::make_unique<State>(*this, threads, level)) {}

Team::~Team() {
    if (state_->inherited()) (void)state_.release();  // threads that are not there cannot be joined
}

bool Team::ready() const { return state_->ready(); }
int32_t Team::threads() const { return state_->threads(); }
int32_t Team::level() const { return state_->level; }

void Team::run(void (*run)(void *context, const Worker &worker), void *context) {
    if (state_->inherited()) {
        auto fresh = std::make_unique<State>(*this, threads(), level());
        if (!fresh->ready()) fresh = std::make_unique<State>(*this, 1, level());
        (void)state_.release();
        state_ = std::move(fresh);
    }
    State &state = *state_;
    state.run = run;
    state.context = context;
    const uint32_t before = _mm_getcsr();
    _mm_setcsr(before | kFlushDenormals);
    if (state.threads() == 1) {
        run(context, state.worker(0));
    } else {
        state.start.set(state.start.value() + 1);
        run(context, state.worker(0));
        state.barrier.wait();
    }
    _mm_setcsr(before);
}

void Team::barrier() {
    if (state_->threads() > 1) state_->barrier.wait();
}

uint8_t *Team::scratch(int32_t index, int64_t bytes) {
    Memory &memory = state_->places[index].scratch;
    if (memory.bytes() < bytes) memory.grow(bytes);
    return memory.data();
}

// All threads ask for the same sizes in the same order, so each knows from its own past whether the others will find the memory
// large enough, too. Only where it is not do they meet: before it is replaced and after.
uint8_t *Team::shared(int32_t index, int64_t bytes) {
    State &state = *state_;
    int64_t &known = state.places[index].shared_bytes;
    if (known < bytes) {
        barrier();
        if (index == 0) state.shared.grow(bytes);
        barrier();
        known = state.shared.bytes();
    }
    return state.shared.data();
}

void Worker::barrier() const { team->barrier(); }
uint8_t *Worker::scratch(int64_t bytes) const { return team->scratch(index, bytes); }
uint8_t *Worker::shared(int64_t bytes) const { return team->shared(index, bytes); }

}  // namespace tiercel

extern "C" tiercel_pool *tiercel_pool_create(int32_t threads, int32_t level) {
    if (threads < 1 || level < 0 || level > tiercel_best_level()) return nullptr;
    std::unique_ptr<tiercel_pool> pool(new tiercel_pool{tiercel::Team(threads, level)});
    return pool->team.ready() ? pool.release() : nullptr;
}

extern "C" void tiercel_pool_destroy(tiercel_pool *pool) { delete pool; }
