// Where the inodes are: the groups' summaries name the chunks that have some, a map in each chunk
// says which of its blocks hold inodes, and an inode's number says which block and slot are its
// own.
//
// A block counts when its map is whole and the bitmaps say that it is metadata: so a file's content
// cannot pretend to be an inode.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "fsck/context.h"
#include "fsck/space.h"

namespace pmfs::fsck {

class InodeMaps {
public:
    InodeMaps(Context &context, Space &space) : context_(context), space_(space) {}

    // Reads all maps; claims them and the blocks that they name.  After Space::start().  A damaged
    // map is replaced by what the chunk's blocks show, where the bitmaps are sound.
    void read();
    // What a repair writes: maps and counts that agree with the slots.  in_use(index): nothing for
    // a slot that cannot be read.
    void plan(const std::function<std::optional<bool>(std::uint64_t)> &in_use);

    // Slots in the blocks that count.  They have indexes from 0 on, in the order of their blocks.
    std::uint64_t slots() const { return slots_; }

    struct Place {
        std::uint64_t block, slot, index;
    };
    // Nothing: there is no such inode.  Or there may be one, if hidden(): its map is damaged.
    std::optional<Place> find(std::uint64_t number) const;
    bool hidden(std::uint64_t number) const;
    // Whether a group may have inodes that are not seen.
    bool hides(std::uint64_t group) const;

    // Calls f(number, place, marked) for each slot that counts; marked: in use, its map says. Stops
    // after a block where f says false.
    template <class F>
    void for_each(F f) const {
        for (const Chunk &chunk : chunks_) {
            std::uint64_t index = chunk.first_index;
            for (std::uint64_t i = 0; i < media::kChunkBlocks; ++i) {
                if ((chunk.made[i / 64] >> (i % 64) & 1) == 0) continue;
                const std::uint64_t block = chunk.number * media::kChunkBlocks + i;
                bool more = true;
                for (std::uint64_t slot = 0; slot < media::kInodesPerBlock; ++slot)
                    more &= f(number_of(block, slot), Place{block, slot, index++},
                              bit(chunk.map->slots, i * media::kInodesPerBlock + slot));
                if (!more) return;
            }
        }
    }

    std::uint64_t block_of(std::uint64_t number) const {
        return number == media::kRootIno ? context_.sb.root_block.get()
                                         : number / media::kInodesPerBlock;
    }
    std::uint64_t group_of(std::uint64_t number) const {
        return block_of(number) / media::kGroupBlocks;
    }

private:
    static constexpr std::uint64_t kWords = media::kChunkBlocks / 64;
    struct Chunk {
        std::uint64_t number;
        const media::InodeMap *map;
        std::uint64_t made[kWords];  // blocks that count
        std::uint64_t first_index;
        bool found_again;  // the one on the medium is damaged
    };

    static bool bit(const media::le64 *words, std::uint64_t i) {
        return (words[i / 64].get() >> (i % 64) & 1) != 0;
    }
    std::uint64_t number_of(std::uint64_t block, std::uint64_t slot) const {
        const bool root = block == context_.sb.root_block.get() && slot == 0;
        return root ? media::kRootIno : block * media::kInodesPerBlock + slot;
    }
    void read_group(std::uint64_t group, const media::Summary &summary);
    const media::InodeMap *map_of(std::uint64_t chunk, std::uint64_t place);
    const media::InodeMap *find_again(std::uint64_t chunk, std::uint64_t block);
    bool holds_inodes(std::uint64_t block) const;
    void read_chunk(std::uint64_t chunk, const media::InodeMap &map);
    void plan_chunk(const Chunk &chunk,
                    const std::function<std::optional<bool>(std::uint64_t)> &in_use,
                    media::InodeMap &right) const;
    void check_bits(std::uint64_t chunk, const media::InodeMap &map);
    void lose(std::uint64_t chunk);

    Context &context_;
    Space &space_;
    std::vector<Chunk> chunks_;  // by number
    std::deque<media::InodeMap> found_again_;
    std::vector<std::uint64_t> lost_;  // chunks that may have more inodes; in rising order
    std::uint64_t slots_ = 0;
};

}  // namespace pmfs::fsck
