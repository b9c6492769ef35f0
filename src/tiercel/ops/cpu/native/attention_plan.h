// How a job is cut: into units, and units into splits of the context.

#pragma once

#include "attention_keys.h"
#include "kernels.h"

namespace tiercel::TIERCEL_LEVEL {

constexpr int kMaxTiles = 16;

// Consecutive queries of one request and kv head: (row, head of the group) pairs, counted row by row. They are computed in
// tiles of 16 and walk the context together, so that a key is fetched once for all of them.
struct Unit {
    int32_t request, kv_head;
    int64_t first, queries;      // pairs
    int64_t low, high;           // smallest and largest position of their rows
    int64_t sink_splits;         // 0 .. sink_splits - 1 and near_split .. near_split + near_splits - 1: what any row sees
    int64_t near_split, near_splits;
    int64_t first_cost;          // cost of the units before this one
    int64_t first_part;          // where several threads share the unit: its first part in shared memory; otherwise -1

    int tiles() const { return int((queries + kLanes - 1) / kLanes); }
    int64_t splits() const { return sink_splits + near_splits; }
    int64_t cost() const { return splits() * tiles(); }
    // The position where the unit's i-th split begins.
    int64_t position(int64_t i) const { return (i < sink_splits ? i : near_split + i - sink_splits) * kSplit; }
};

class Plan {
  public:
    Plan(const Attention &job, int32_t threads)
        : job_(job), threads_(threads), group_size_(job.heads / job.group->num_kv_heads) {
        const int64_t tiles = count(1);
        // Long walks with many tiles spare memory; some units per thread are needed to share the work out.
        tiles_ = int(std::clamp<int64_t>(tiles / (8 * threads), 1, kMaxTiles));
    }

    int64_t max_units() const { return count(tiles_); }
    int tiles() const { return tiles_; }
    int64_t row(const Unit &unit, int64_t query) const {
        return job_.group->query_start[unit.request] + (unit.first + query) / group_size_;
    }
    int64_t head(const Unit &unit, int64_t query) const {
        return unit.kv_head * group_size_ + (unit.first + query) % group_size_;
    }

    // Fills `units`, of max_units().
    void lay_out(Unit *units) {
        units_ = units;
        for (int32_t request = 0; request < job_.group->requests; request++) {
            for (int32_t kv_head = 0; kv_head < job_.group->num_kv_heads; kv_head++) {
                for (int64_t first = 0, all = queries(request), next; first < all; first = next) {
                    next = std::min(all, unit_end(request, first));
                    add(request, kv_head, first, next - first);
                }
            }
        }
        for (int64_t i = 0; i < size_; i++) {
            Unit &unit = units_[i];
            if (owner(unit.first_cost) == owner(unit.first_cost + unit.cost() - unit.tiles())) continue;
            unit.first_part = parts_;
            parts_ += unit.cost();
        }
    }

    int64_t size() const { return size_; }
    Unit &operator[](int64_t i) const { return units_[i]; }
    // Whether units are small enough to be claimed one after the other. Otherwise each thread has a fixed stretch of the work,
    // and where two stretches meet within a unit its parts are merged at the end.
    bool claimed() const { return largest_ * 4 * threads_ <= total_; }
    int64_t parts() const { return parts_; }

    // The thread's splits of a unit, [first, last).
    void share(const Unit &unit, int32_t thread, int64_t &first, int64_t &last) const {
        const int64_t tiles = unit.tiles();
        auto splits_before = [&](int64_t cost) {
            return std::clamp<int64_t>((cost - unit.first_cost + tiles - 1) / tiles, 0, unit.splits());
        };
        first = splits_before(begin(thread));
        last = splits_before(begin(thread + 1));
    }

  private:
    int64_t queries(int32_t request) const {
        const int32_t *start = job_.group->query_start + request;
        return int64_t(start[1] - start[0]) * group_size_;
    }

    int64_t count(int tiles) const {
        int64_t units = 0;
        for (int32_t request = 0; request < job_.group->requests; request++) {
            units += (queries(request) + tiles * kLanes - 1) / (tiles * kLanes) * job_.group->num_kv_heads;
            if (job_.group->open) units += (queries(request) / group_size_ / OwnBlocks::kTokens + 1) * job_.group->num_kv_heads;
        }
        return units;
    }

    // Where the unit that begins with query `first` ends at the latest. Its rows have one own block.
    int64_t unit_end(int32_t request, int64_t first) const {
        const int64_t end = first + tiles_ * kLanes;
        if (!job_.group->open) return end;
        const int64_t start = job_.group->query_start[request], row = first / group_size_;
        const int64_t rest = OwnBlocks::kTokens - job_.group->q_positions[start + row] % OwnBlocks::kTokens;
        return std::min(end, (row + rest) * group_size_);
    }

    void add(int32_t request, int32_t kv_head, int64_t first, int64_t queries) {
        Unit unit{request, kv_head, first, queries, INT32_MAX, 0, 0, 0, 0, total_, -1};
        for (int64_t i = row(unit, 0); i <= row(unit, queries - 1); i++) {
            unit.low = std::min<int64_t>(unit.low, job_.group->q_positions[i]);
            unit.high = std::max<int64_t>(unit.high, job_.group->q_positions[i]);
        }
        const int64_t splits = (std::min<int64_t>(unit.high + 1, job_.group->lengths[request]) + kSplit - 1) / kSplit;
        if (job_.window > 0) {
            unit.near_split = std::min(std::max<int64_t>(unit.low - job_.window + 1, 0) / kSplit, splits);
            unit.sink_splits = std::min<int64_t>((job_.sink_tokens + kSplit - 1) / kSplit, unit.near_split);
        }
        unit.near_splits = std::max<int64_t>(splits - unit.near_split, 1);
        units_[size_++] = unit;
        total_ += unit.cost();
        largest_ = std::max(largest_, unit.cost());
    }

    int64_t begin(int32_t thread) const { return total_ * thread / threads_; }
    int32_t owner(int64_t cost) const {
        int32_t thread = threads_ - 1;
        while (begin(thread) > cost) thread--;
        return thread;
    }

    const Attention &job_;
    int32_t threads_;
    int64_t group_size_;
    int tiles_;
    Unit *units_ = nullptr;
    int64_t size_ = 0, total_ = 0, largest_ = 0, parts_ = 0;
};

}  // namespace tiercel::TIERCEL_LEVEL
