// Stub on one thread, until the pool stands.
#include "pool.h"
#include <vector>
#include <immintrin.h>
#include <cstdlib>
namespace tiercel {
struct Team::State { int32_t threads, level; void *a = nullptr, *b = nullptr; int64_t na = 0, nb = 0; };
Team::Team(int32_t, int32_t level) : state_(new State{1, level}) {}
Team::~Team() {}
bool Team::ready() const { return true; }
int32_t Team::threads() const { return 1; }
int32_t Team::level() const { return state_->level; }
void Team::run(void (*run)(void *, const Worker &), void *context) {
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040);
    run(context, Worker{0, 1, nullptr, this});
    _mm_setcsr(old);
}
void Team::barrier(int32_t) {}
uint8_t *Team::scratch(int32_t, int64_t n) { if (n > state_->na) state_->a = std::aligned_alloc(64, (n + 63) / 64 * 64), state_->na = n; return (uint8_t *)state_->a; }
uint8_t *Team::shared(int64_t n, const Worker &) { if (n > state_->nb) state_->b = std::aligned_alloc(64, (n + 63) / 64 * 64), state_->nb = n; return (uint8_t *)state_->b; }
void Worker::barrier() const { team->barrier(index); }
uint8_t *Worker::scratch(int64_t bytes) const { return team->scratch(index, bytes); }
uint8_t *Worker::shared(int64_t bytes) const { return team->shared(bytes, *this); }
}
extern "C" {
int32_t tiercel_abi(void) { return TIERCEL_ABI; }
int32_t tiercel_best_level(void) { return TIERCEL_AVX512; }
tiercel_pool *tiercel_pool_create(int32_t threads, int32_t level) { return new tiercel_pool{tiercel::Team(threads, level)}; }
void tiercel_pool_destroy(tiercel_pool *pool) { delete pool; }
}
