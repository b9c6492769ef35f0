// Attention: softmax(q k^T * scale) v over block tables, in an order that is the same at every level.
//
// The context is cut into splits at positions that are multiples of 128, and a split into spans of 32. For each query:
//   score of a key   q (rounded to bf16) times k in the order of matrix tiles over head_dim, filled up with zeros to a multiple
//                    of 32: per 32 channels an even chain e = fma(q[2j], k[2j], e) and an odd one, both from 0, then
//                    s = s + (e + o); s from 0.
//   of a split       m = floor(the largest of its visible scores * (scale * log2(e))), x = fma(score, scale * log2(e), -m),
//                    p = 2^x rounded to bf16 (`WeightOf`), o[d] = p times v in the order of matrix tiles over keys: spans are
//                    its blocks of 32. l = sum of p in the same order, as if it were p times 1. Hidden keys have p = 0.
//   merge            of splits, in order: M = max(m, m'), a = 2^(m - M), b = 2^(m' - M), l = fma(l, a, l' * b),
//                    o = fma(o, a, o' * b), from m = -inf, l = o = 0. It leaves bits alone where either side is empty, so it
//                    does not matter which hidden splits are skipped, nor which thread computes a split.
//   result           o * (1 / l), and ln l + m ln 2 as log-sum-exp. A query that sees nothing gives zeros and -inf.
// m is whole so that factors of a merge are powers of two, and x needs no more than one rounding.
//
// Up to 16 queries of one kv head make a tile, for which keys and values are read once. A zero may differ in sign with the rows
// beside it (0 * -v), until the end, where 0 is added. What is written in the arena is taken to be finite, and scale to be more
// than 0.

#include "attention_keys.h"
#include "attention_plan.h"
#include "attention_softmax.h"
#include "hadamard.h"
#if defined(__AMX_BF16__)
#include "attention_amx.h"
#else
#include "attention_avx.h"
#endif

namespace tiercel::TIERCEL_LEVEL {
namespace {

// Splits first .. last - 1 of a unit.
struct Walk {
    const Unit *unit;
    int64_t first, last;
};

// Computes units, one at a time, in a thread's scratch memory.
class Walker {
  public:
    static int64_t bytes(int width, int tiles) {
        return tiles * (Products::query_bytes(width) + part_bytes(width)) + part_bytes(width) + rows_bytes(width) +
               kSpans * span_bytes(width) + Products::scratch_bytes(width);
    }

    Walker(const Attention &job, const Plan &plan, int width, uint8_t *memory)
        : job_(job), plan_(plan), head_dim_(job.group->head_dim), width_(width), factor_(all(job.scale * kLog2E)),
          queries_(memory), states_(queries_ + plan.tiles() * Products::query_bytes(width)),
          part_(states_ + plan.tiles() * part_bytes(width)), rows_(reinterpret_cast<float *>(part_ + part_bytes(width))),
          copies_(reinterpret_cast<uint8_t *>(rows_) + rows_bytes(width)),
          products_(width, copies_ + kSpans * span_bytes(width)) {}

    static int64_t part_bytes(int width) { return Part::floats(width) * int64_t(sizeof(float)); }

    // parts: where each split's result of each tile goes; null: they are merged at once. next: the walk after this one, or
    // null.
    void walk(const Walk &walk, uint8_t *parts, const Walk *next) {
        const Unit &unit = *walk.unit;
        pack_queries(unit);
        const Context context = context_of(unit);
        for (int64_t i = walk.first; i < walk.last; i++) {
            fetch(unit, context, unit.position(i));
            look_ahead(walk, i, next);
            products_.begin_split();
            for (int tile = 0; tile < unit.tiles(); tile++) {
                if (parts) {
                    attend(unit, tile, part_of(parts, unit, i, tile));
                } else if (i == walk.first) {
                    attend(unit, tile, state(tile));
                } else {
                    const Part part(reinterpret_cast<float *>(part_));
                    attend(unit, tile, part);
                    add(state(tile), part, queries(unit, tile));
                }
            }
        }
    }

    // Results of a unit that was walked as a whole.
    void finish(const Unit &unit) {
        for (int tile = 0; tile < unit.tiles(); tile++) write(unit, tile, state(tile));
    }

    // The result of a tile of a unit whose splits several threads have computed.
    void merge_parts(const Unit &unit, int tile, uint8_t *parts) {
        const Part total = part_of(parts, unit, 0, tile);
        for (int64_t i = 1; i < unit.splits(); i++) add(total, part_of(parts, unit, i, tile), queries(unit, tile));
        write(unit, tile, total);
    }

  private:
    static int64_t rows_bytes(int width) { return kLanes * width * int64_t(sizeof(float) + sizeof(uint16_t)); }
    static int64_t span_bytes(int width) { return 2 * kSpan * width * int64_t(sizeof(uint16_t)); }

    static int queries(const Unit &unit, int tile) { return int(std::min<int64_t>(unit.queries - tile * kLanes, kLanes)); }
    uint8_t *query(int tile) const { return queries_ + tile * Products::query_bytes(width_); }
    Part state(int tile) const { return Part(reinterpret_cast<float *>(states_ + tile * part_bytes(width_))); }
    Part part_of(uint8_t *parts, const Unit &unit, int64_t split, int tile) const {
        return Part(reinterpret_cast<float *>(parts + (split * unit.tiles() + tile) * part_bytes(width_)));
    }

    void add(const Part &total, const Part &next, int count) const {
        F32 keep, add;
        merge(total, next, keep, add);
        Products::merge_values(total, next, keep, add, count, width_);
    }

    void pack_queries(const Unit &unit) {
        float *padded = rows_;
        auto *tile = reinterpret_cast<uint16_t *>(rows_ + kLanes * width_);
        std::fill(padded, padded + width_, 0.0f);
        for (int64_t i = 0; i < unit.queries; i++) {
            const float *q = job_.q + plan_.row(unit, i) * job_.stride + plan_.head(unit, i) * head_dim_;
            std::copy(q, q + head_dim_, padded);
            if (job_.group->rotated) rotate_row(padded, head_dim_);
            uint16_t *row = tile + i % kLanes * width_;
            for (int d = 0; d < width_; d += kLanes) store_bf16(row + d, load(padded + d));
            if (i % kLanes != kLanes - 1 && i != unit.queries - 1) continue;
            std::fill(row + width_, tile + kLanes * width_, uint16_t(0));
            Products::pack_queries(tile, width_, query(int(i / kLanes)));
        }
    }

    // Finds the spans of a split that any row of the unit sees.
    void fetch(const Unit &unit, const Context &context, int64_t position) {
        num_spans_ = 0;
        for (int64_t first = position; first < position + kSplit && first <= unit.high; first += kSpan) {
            const uint32_t present = context.present(first);
            uint32_t any = ~0u, every = ~0u;
            if (!seen_by_all(unit, first)) {
                any = 0;
                for (int64_t row = plan_.row(unit, 0); row <= plan_.row(unit, unit.queries - 1); row++) {
                    const uint32_t bits = visible(job_, row, first);
                    any |= bits;
                    every &= bits;
                }
            }
            if (!(any & present)) continue;
            Span &span = spans_[num_spans_];
            span.first = first;
            span.column = int(first - position);
            span.present = present;
            span.whole = (every & present) == ~0u;
            // Several tiles share a copy. For one tile it is used as soon as it is made, keys of two spans at a time.
            const int place = unit.tiles() > 1 ? num_spans_ : num_spans_ % 2;
            auto *copy = reinterpret_cast<uint16_t *>(copies_ + place * span_bytes(width_));
            place_span(context, width_, any & present, copy, span, ahead_);
            num_spans_++;
        }
    }

    // Sees to it that enough is asked for of what comes after the i-th split, in this walk and the next.
    void look_ahead(const Walk &walk, int64_t i, const Walk *next) {
        if (foreseen_.unit != walk.unit && !(next && foreseen_.unit == next->unit)) foreseen_ = walk;
        if (foreseen_.unit == walk.unit) foreseen_.first = std::max(foreseen_.first, i + 1);
        while (ahead_.wants()) {
            if (foreseen_.first == foreseen_.last) {
                if (!next || foreseen_.unit == next->unit) return;
                foreseen_ = *next;
            }
            foresee(*foreseen_.unit, foreseen_.unit->position(foreseen_.first++));
        }
    }

    // A split's keys, then its values.
    void foresee(const Unit &unit, int64_t position) {
        const Context context = context_of(unit);
        const int64_t end = std::min(position + kSplit, unit.high + 1);
        const KVRow row(*job_.group);
        auto add = [&](auto place, int64_t bytes) {
            for (int64_t first = position; bytes && first < end; first += kSpan) {
                if (context.present(first) && !context.is_own(first)) ahead_.add((context.*place)(first), kSpan * bytes);
            }
        };
        add(&Context::key, row.value_bytes);
        add(&Context::key_scales, row.scale_bytes);
        add(&Context::value, row.value_bytes);
        add(&Context::value_scales, row.scale_bytes);
    }

    Context context_of(const Unit &unit) const {
        return Context(job_, unit.request, unit.kv_head, own_start(*job_.group, unit.low));
    }

    bool seen_by_all(const Unit &unit, int64_t first) const {
        const bool near = job_.window <= 0 || first > unit.high - job_.window || first + kSpan <= job_.sink_tokens;
        return first + kSpan - 1 <= unit.low && near && !job_.group->mask;
    }

    // One tile and the split that was fetched.
    void attend(const Unit &unit, int tile, const Part &part) {
        int num_views = 0;
        for (int i = 0; i < num_spans_; i++) {
            uint32_t *seen = spans_[i].whole ? nullptr : seen_[num_views];
            if (seen && !look(unit, tile, spans_[i], seen)) continue;
            views_[num_views++] = {&spans_[i], seen};
        }
        products_.attend(query(tile), views_, num_views, queries(unit, tile), factor_, part, ahead_);
    }

    // What each query of a tile sees of a span: null stands for all. False: nothing.
    bool look(const Unit &unit, int tile, const Span &span, uint32_t *&seen) {
        uint32_t any = 0, every = ~0u;
        for (int i = 0; i < queries(unit, tile); i++) {
            seen[i] = visible(job_, plan_.row(unit, tile * kLanes + i), span.first) & span.present;
            any |= seen[i];
            every &= seen[i];
        }
        if (every == ~0u) seen = nullptr;
        return any != 0;
    }

    void write(const Unit &unit, int tile, const Part &part) {
        alignas(64) float lse[kLanes];
        store(lse, log_sum_exp(part));
        float *values = Products::results(part, queries(unit, tile), width_, rows_);
        for (int i = 0; i < queries(unit, tile); i++, values += width_) {
            const int64_t row = plan_.row(unit, tile * kLanes + i), head = plan_.head(unit, tile * kLanes + i);
            if (job_.group->rotated) rotate_row(values, head_dim_);
            std::copy(values, values + head_dim_, job_.out + row * job_.stride_out + head * head_dim_);
            if (job_.lse) job_.lse[row * job_.stride_lse + head] = lse[i];
        }
    }

    const Attention &job_;
    const Plan &plan_;
    int head_dim_, width_;
    F32 factor_;
    uint8_t *queries_, *states_, *part_;
    float *rows_;  // a tile's queries or results, [16][width]
    uint8_t *copies_;
    Products products_;
    Ahead ahead_;
    Walk foreseen_{};  // what has not been asked for yet, of this walk or the next
    Span spans_[kSpans];
    int num_spans_ = 0;
    View views_[kSpans];  // of the tile at hand
    alignas(64) uint32_t seen_[kSpans][kLanes] = {};
};

}  // namespace

void attention(const Attention &job, const Worker &worker) {
    Plan plan(job, worker.threads);
    const int width = (job.group->head_dim + kSpan - 1) / kSpan * kSpan;
    const int64_t work = Walker::bytes(width, plan.tiles());
    uint8_t *memory = worker.scratch(work + plan.max_units() * int64_t(sizeof(Unit)));
    plan.lay_out(reinterpret_cast<Unit *>(memory + work));
    Walker walker(job, plan, width, memory);
    if (plan.claimed()) {
        auto claim = [&]() -> Walk {
            const int64_t i = plan.size() - 1 - worker.claim();  // later rows see more: long walks first
            return i < 0 ? Walk{} : Walk{&plan[i], 0, plan[i].splits()};
        };
        for (Walk walk = claim(), next; walk.unit; walk = next) {
            next = claim();
            walker.walk(walk, nullptr, next.unit ? &next : nullptr);
            walker.finish(*walk.unit);
        }
        return;
    }
    uint8_t *parts = plan.parts() ? worker.shared(plan.parts() * Walker::part_bytes(width)) : nullptr;
    auto parts_of = [&](const Unit &unit) { return parts + unit.first_part * Walker::part_bytes(width); };
    int64_t number = 0;
    auto own = [&]() -> Walk {
        for (; number < plan.size(); number++) {
            int64_t first, last;
            plan.share(plan[number], worker.index, first, last);
            if (first < last) return {&plan[number++], first, last};
        }
        return {};
    };
    for (Walk walk = own(), next; walk.unit; walk = next) {
        next = own();
        const bool whole = walk.unit->first_part < 0;
        walker.walk(walk, whole ? nullptr : parts_of(*walk.unit), next.unit ? &next : nullptr);
        if (whole) walker.finish(*walk.unit);
    }
    if (!parts) return;
    worker.barrier();  // another one comes before the next job, which may want the same memory
    number = 0;
    for (int64_t i = 0; i < plan.size(); i++) {
        if (plan[i].first_part < 0) continue;
        for (int tile = 0; tile < plan[i].tiles(); tile++) {
            if (number++ % worker.threads == worker.index) walker.merge_parts(plan[i], tile, parts_of(plan[i]));
        }
    }
}

}  // namespace tiercel::TIERCEL_LEVEL
