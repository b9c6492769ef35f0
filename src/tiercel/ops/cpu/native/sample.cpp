// From logits to tokens, as ops/sampling.py defines it, for rows without penalties, bias and log probabilities.
//
// A row goes through three phases:
//   best     the largest logit and its token. A greedy row is done.
//   weigh    the weights floor(2^40 exp(-d)), d = (best - logit) / temperature, added up in buckets of nearly equal d. Sums of
//            integers are the same in any order.
//   draw     the sums tell in which bucket a filter ends or the draw falls; only that bucket's candidates are sorted.
//
// Compiled once, for the lowest level. Denormals count here, as they do in the definition.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "pool.h"
#include "simd.h"

namespace tiercel {
namespace {

using namespace TIERCEL_LEVEL;

constexpr float kNone = -std::numeric_limits<float>::infinity();  // a logit that cannot be chosen
constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

// A bucket holds distances that agree in exponent and the first 6 bits behind it, from 2^-16 to 2^5. What is smaller is in the
// first, what is larger in the last.
constexpr int32_t kBucketShift = 17, kBuckets = 21 << 6, kFirstBucket = (127 - 16) << 6;
constexpr float kFar = 28.0f;  // beyond, weights are 0

struct Bucket {
    int64_t mass;   // sum of weights
    int64_t count;  // of candidates with a weight above 0
};

struct Row {
    const float *logits;
    int32_t vocab;
    const tiercel_sampling &settings;
};

struct Best {
    float logit;
    int32_t token;
};

// -- reading ----------------------------------------------------------------------------------------------------------------

// 16 logits from a token that is a multiple of 16: NaN, masked tokens and what lies behind the last are -inf, +inf is FLT_MAX.
inline F32 read(const Row &row, int64_t token) {
    alignas(32) static constexpr int32_t kBits[kLanes] = {1,     2,     4,     8,      16,     32,     64,     128,
                                                         1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15};
    F32 x;
    if (token + kLanes <= row.vocab) {
        x = load(row.logits + token);
    } else {
        float tail[kLanes];
        std::fill(tail, tail + kLanes, kNone);
        std::memcpy(tail, row.logits + token, size_t(row.vocab - token) * sizeof(float));
        x = load(tail);
    }
    x = min(max(x, all(kNone)), all(FLT_MAX));  // of NaN and a number, `max` takes the second
    if (!row.settings.mask) return x;
    const int32_t allowed = row.settings.mask[token / 32] >> token % 32 & 0xffff;
    return choose(less(all(0), all(allowed) & load(kBits)), x, all(kNone));
}

inline int32_t bits_of(Mask m) { return _mm256_movemask_ps(m.lo) | _mm256_movemask_ps(m.hi) << 8; }

// The first of the largest logits of tokens first .. last - 1; token -1 where all are -inf.
Best best_of(const Row &row, int64_t first, int64_t last) {
    constexpr int64_t kBlock = 1024;
    Best best{kNone, -1};
    for (int64_t start = first; start < last; start += kBlock) {
        F32 most = all(kNone);
        for (int64_t token = start; token < std::min(last, start + kBlock); token += kLanes) most = max(most, read(row, token));
        float lanes[kLanes];
        store(lanes, most);
        const float logit = *std::max_element(lanes, lanes + kLanes);
        if (logit > best.logit) best = {logit, int32_t(start)};
    }
    if (best.token < 0) return best;
    for (int64_t token = best.token;; token += kLanes) {  // the block is known, now the place in it
        const int32_t below = bits_of(less(read(row, token), all(best.logit)));
        if (below != 0xffff) return {best.logit, int32_t(token) + std::countr_one(uint32_t(below))};
    }
}

// d >= 0 of 16 tokens.
inline F32 distances(const Row &row, float best, int64_t token) {
    return abs((read(row, token) - all(best)) / all(row.settings.temperature));
}

inline I32 buckets_of(F32 distance) {
    I32 bucket = shift_right<kBucketShift>(as_int(distance)) - all(kFirstBucket);
    bucket = choose(less(bucket, all(0)), all(0), bucket);
    return choose(less(bucket, all(kBuckets)), bucket, all(kBuckets - 1));
}

// -- weights ----------------------------------------------------------------------------------------------------------------

// floor(2^40 exp(-d)) of four distances, by exp(x) = 2^n exp(r), n = round(x / ln 2), and Taylor's polynomial of degree 12 for
// |r| <= ln(2) / 2; its relative error is below 2^-52.
inline __m256i weights(__m128 distance) {
    constexpr double kInverse[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                   1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0,
                                   1.0};
    auto every = [](double x) { return _mm256_set1_pd(x); };
    const __m256d x = _mm256_max_pd(_mm256_sub_pd(_mm256_setzero_pd(), _mm256_cvtps_pd(distance)), every(-kFar - 1));
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m256d n = _mm256_round_pd(_mm256_mul_pd(x, every(0x1.71547652b82fep0)), kNearest);
    __m256d r = _mm256_fnmadd_pd(n, every(0x1.62e42fefa38p-1), x);  // ln 2 in two parts: n times the first is exact
    r = _mm256_fnmadd_pd(n, every(0x1.ef35793c7673p-45), r);
    __m256d p = every(kInverse[0]);
    for (int k = 1; k < 13; k++) p = _mm256_fmadd_pd(p, r, every(kInverse[k]));
    // Added to 2^52, a whole number stands in the last bits of a double.
    const __m256d whole = every(0x1p52);
    const __m256i exponent = _mm256_castpd_si256(_mm256_add_pd(n, every(0x1p52 + 1023 + 40)));
    p = _mm256_floor_pd(_mm256_mul_pd(p, _mm256_castsi256_pd(_mm256_slli_epi64(exponent, 52))));
    return _mm256_xor_si256(_mm256_castpd_si256(_mm256_add_pd(p, whole)), _mm256_castpd_si256(whole));
}

// Adds up the tokens first .. last - 1.
void weigh(const Row &row, float best, int64_t first, int64_t last, Bucket *buckets) {
    std::fill(buckets, buckets + kBuckets, Bucket{});
    for (int64_t token = first; token < last; token += kLanes) {
        const F32 distance = distances(row, best, token);
        if (bits_of(less(distance, all(kFar))) == 0) continue;
        float d[kLanes];
        int32_t bucket[kLanes];
        alignas(32) int64_t weight[kLanes];
        store(d, distance);
        store(bucket, buckets_of(distance));
        for (int i = 0; i < kLanes; i += 4) {
            _mm256_store_si256(reinterpret_cast<__m256i *>(weight + i), weights(_mm_loadu_ps(d + i)));
        }
        for (int i = 0; i < kLanes; i++) {
            buckets[bucket[i]].mass += weight[i];
            buckets[bucket[i]].count += weight[i] > 0;
        }
    }
}

// -- choice -----------------------------------------------------------------------------------------------------------------

struct Candidate {
    uint64_t key;  // the distance's bits, then the token: candidates stand by ascending keys
    int64_t weight;

    float distance() const { return std::bit_cast<float>(uint32_t(key >> 32)); }
    int32_t token() const { return int32_t(key); }
};

// One row's candidates in order. Only those of asked-for buckets are ever listed.
class Candidates {
  public:
    Candidates(const Row &row, float best, const Bucket *buckets) : row_(row), best_(best), buckets_(buckets) {}

    // The first candidate at which the running sum of weights exceeds `goal`, or which is number `rank`, counted from 1; and
    // the sum up to it. Token -1 and the whole sum where there is none.
    struct Reached {
        int32_t token;
        int64_t mass;
    };
    Reached reach(int64_t goal, int64_t rank) const {
        int64_t mass = 0, count = 0;
        for (int32_t number = 0; number < kBuckets; number++) {
            const Bucket &bucket = buckets_[number];
            if (mass + bucket.mass > goal || count + bucket.count >= rank) {
                for (const Candidate &candidate : sorted(number)) {
                    mass += candidate.weight;
                    if (mass > goal || ++count >= rank) return {candidate.token(), mass};
                }
            }
            mass += bucket.mass;
            count += bucket.count;
        }
        return {-1, mass};
    }

    // The sum of weights up to a distance.
    int64_t mass_within(float distance) const {
        int32_t lanes[kLanes];
        store(lanes, buckets_of(all(distance)));
        int64_t mass = 0;
        for (int32_t number = 0; number < lanes[0]; number++) mass += buckets_[number].mass;
        for (const Candidate &candidate : sorted(lanes[0])) mass += candidate.distance() <= distance ? candidate.weight : 0;
        return mass;
    }

  private:
    std::vector<Candidate> sorted(int32_t number) const {
        std::vector<Candidate> found;
        found.reserve(size_t(buckets_[number].count));
        for (int64_t token = 0; token < row_.vocab; token += kLanes) {
            const F32 distance = distances(row_, best_, token);
            const I32 bucket = buckets_of(distance);
            int32_t hits = bits_of(less(bucket, all(number + 1))) & ~bits_of(less(bucket, all(number)));
            float lanes[kLanes];
            if (hits) store(lanes, distance);
            for (; hits; hits &= hits - 1) {
                const int lane = std::countr_zero(uint32_t(hits));
                const int64_t weight = _mm256_extract_epi64(weights(_mm_set1_ps(lanes[lane])), 0);
                const uint64_t key = uint64_t{std::bit_cast<uint32_t>(lanes[lane])} << 32 | uint64_t(token + lane);
                if (weight > 0) found.push_back({key, weight});
            }
        }
        std::sort(found.begin(), found.end(), [](const Candidate &a, const Candidate &b) { return a.key < b.key; });
        return found;
    }

    const Row &row_;
    const float best_;
    const Bucket *const buckets_;
};

// The first two words of Philox4x32-10 as one number: floor(u * 2^64). See ops/philox.py.
uint64_t uniform(const tiercel_sampling &settings) {
    uint32_t c0 = uint32_t(settings.output_position), c1 = uint32_t(settings.sample_index), c2 = 0, c3 = 0;
    uint32_t k0 = uint32_t(settings.seed), k1 = uint32_t(settings.seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
        c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
        c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
        c1 = uint32_t(p1);
        c3 = uint32_t(p0);
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return uint64_t{c0} << 32 | c1;
}

int32_t draw(const Row &row, float best, const Bucket *buckets) {
    const tiercel_sampling &settings = row.settings;
    const Candidates candidates(row, best, buckets);
    const bool some = settings.top_k > 0 && settings.top_k < row.vocab;
    int64_t mass = candidates.reach(kAll, some ? settings.top_k : kAll).mass;
    if (settings.top_p < 1) {
        const double least = std::ceil(double(settings.top_p) * double(mass));
        mass = candidates.reach(int64_t(least) - 1, kAll).mass;
    }
    if (settings.min_p > 0) {
        mass = std::min(mass, candidates.mass_within(std::fabs(float(std::log(double(settings.min_p))))));
    }
    const auto goal = static_cast<unsigned __int128>(uniform(settings)) * uint64_t(mass) >> 64;
    return candidates.reach(int64_t(goal), kAll).token;
}

// The lowest token that the mask allows, or 0.
int32_t first_allowed(const Row &row) {
    const uint32_t *mask = row.settings.mask;
    for (int32_t word = 0; mask && word < (row.vocab + 31) / 32; word++) {
        if (!mask[word]) continue;
        const int32_t token = word * 32 + std::countr_zero(mask[word]);
        return token < row.vocab ? token : 0;
    }
    return 0;
}

// Whether a row's token depends on weights.
bool is_drawn(const Row &row, Best best) { return row.settings.temperature > 0 && best.token >= 0; }

// buckets: the sums of the whole row, if it is drawn.
int32_t token_of(const Row &row, Best best, const Bucket *buckets) {
    if (best.token < 0) return first_allowed(row);
    return is_drawn(row, best) ? draw(row, best.logit, buckets) : best.token;
}

// -- the job ----------------------------------------------------------------------------------------------------------------

class DenormalsKept {
  public:
    DenormalsKept() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~0x8040u); }
    ~DenormalsKept() { _mm_setcsr(before_); }

  private:
    const uint32_t before_;
};

struct Job {
    const float *logits;
    int64_t stride;
    int32_t vocab, rows;
    const tiercel_sampling *settings;
    int32_t *token_ids;
    Counter next;

    Row row(int64_t index) const { return {logits + index * stride, vocab, settings[index]}; }
};

// At least as many rows as threads: each thread takes whole ones, which stay in its cache from phase to phase.
void sample_rows(Job &job, const Worker &worker) {
    auto *buckets = reinterpret_cast<Bucket *>(worker.scratch(kBuckets * int64_t(sizeof(Bucket))));
    for (int64_t index; (index = job.next.next.fetch_add(1, std::memory_order_relaxed)) < job.rows;) {
        const Row row = job.row(index);
        const Best best = best_of(row, 0, job.vocab);
        if (is_drawn(row, best)) weigh(row, best.logit, 0, job.vocab, buckets);
        job.token_ids[index] = token_of(row, best, buckets);
    }
}

// Fewer rows than threads: the first two phases of each row are the work of all, one chunk each.
void sample_together(Job &job, const Worker &worker) {
    struct Part {
        alignas(64) Best best;
        Bucket buckets[kBuckets];
    };
    Part *parts = reinterpret_cast<Part *>(worker.shared(worker.threads * int64_t(sizeof(Part))));
    int64_t first, last;
    worker.share((job.vocab + 31) / 32, first, last);  // masks come in words of 32 tokens
    first *= 32;
    last = std::min<int64_t>(last * 32, job.vocab);
    for (int64_t index = 0; index < job.rows; index++) {
        const Row row = job.row(index);
        parts[worker.index].best = best_of(row, first, last);
        worker.barrier();
        Best best = parts[0].best;
        for (int32_t i = 1; i < worker.threads; i++) best = parts[i].best.logit > best.logit ? parts[i].best : best;
        if (is_drawn(row, best)) {
            weigh(row, best.logit, first, last, parts[worker.index].buckets);
            worker.barrier();
        }
        if (worker.index == 0) {
            Bucket *sums = parts[0].buckets;
            for (int32_t i = 1; is_drawn(row, best) && i < worker.threads; i++) {
                for (int32_t number = 0; number < kBuckets; number++) {
                    sums[number].mass += parts[i].buckets[number].mass;
                    sums[number].count += parts[i].buckets[number].count;
                }
            }
            job.token_ids[index] = token_of(row, best, sums);
        }
        if (index + 1 < job.rows) worker.barrier();  // the parts are free again
    }
}

void work(void *context, const Worker &worker) {
    Job &job = *static_cast<Job *>(context);
    const DenormalsKept kept;
    job.rows < worker.threads ? sample_together(job, worker) : sample_rows(job, worker);
}

}  // namespace
}  // namespace tiercel

extern "C" void tiercel_sample(tiercel_pool *pool, const float *logits, int64_t stride, int32_t vocab, int32_t rows,
                               const tiercel_sampling *settings, int32_t *token_ids) {
    if (rows < 1) return;
    tiercel::Job job{logits, stride, vocab, rows, settings, token_ids, {}};
    if (rows == 1 && settings[0].temperature == 0) {  // done sooner than another thread would wake up
        const tiercel::Row row = job.row(0);
        token_ids[0] = tiercel::token_of(row, tiercel::best_of(row, 0, vocab), nullptr);
        return;
    }
    pool->team.run(tiercel::work, &job);
}
