// Space: every block has one owner, and bitmaps, chunk kinds and counts agree with that.
//
// The walks claim what they find, and learn whether the bitmaps agree that it is what they take it
// for; finish() compares all claims with the bitmaps.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "fsck/context.h"
#include "fsck/lazy_array.h"

namespace pmfs::fsck {

// A block's class: metadata is everything with a fixed place or a header, and blocks of inodes;
// file data and the blobs of large values are data.
enum class BlockClass : std::uint8_t { data, metadata };

class Space {
public:
    explicit Space(Context &context) : context_(context) {}

    // Reads the groups' summaries and bitmaps, and claims what has a fixed place.
    Result<> start();

    std::uint64_t groups() const { return groups_.size(); }
    // The copy that is used, or null.
    const media::Summary *summary(std::uint64_t group) const { return groups_[group].summary; }
    // False: the bitmaps say that the block is free, or data.  A bitmap that is damaged says
    // nothing.
    bool may_be_metadata(std::uint64_t block) const;

    // `owner` (an inode, or Problem::kNone for the volume) uses these blocks, which are inside the
    // volume, as `as`.  False: one of them has an owner already, or the other class, and its
    // content must not be used; that was reported, or finish() does it.
    bool claim(std::uint64_t start, std::uint64_t blocks, BlockClass as, std::uint64_t owner);

    // Whether the bitmaps say for certain that the block is metadata.
    bool is_metadata(std::uint64_t block) const;

    // What a repair writes into the summaries of a group, where they say something else.
    void set_inodes(std::uint64_t group, std::uint32_t used, std::uint32_t made);
    void set_list(std::uint64_t group, std::size_t head_offset, std::uint64_t head);

    // How far from `start` on, up to `end`, the blocks all have an owner or all have none, as
    // `start` has.  start < end <= the volume's end.
    struct Stretch {
        std::uint64_t end;
        bool owned;
    };
    Stretch stretch(std::uint64_t start, std::uint64_t end) const;

    void finish();

private:
    struct Inodes {
        std::uint32_t used, made;
    };
    struct Head {
        std::size_t offset;  // of the field in Summary
        std::uint64_t inode;
    };
    struct Group {
        const media::Summary *summary = nullptr;
        std::optional<Inodes> inodes = {};
        std::vector<Head> heads = {};
        bool suspect = false;  // its bitmaps or summaries may need a repair
        // Which of its bitmap blocks are whole, one bit each.
        std::uint16_t usage_whole = 0, classes_whole = 0;
    };
    struct Run {  // neighbours with the same problem are reported as one
        Code code{};
        std::uint64_t start = 0, blocks = 0;
    };
    struct Fault {  // of some blocks of a claim
        std::uint64_t first = 0, count = 0;
        void add(std::uint64_t block, std::uint64_t bits);
    };
    struct Seen {  // of a chunk
        bool metadata = false, data = false;
        void add(std::uint64_t used, std::uint64_t classes);
        media::ChunkKind kind() const;
    };

    void read_group(std::uint64_t group);
    void read_bitmaps(std::uint64_t group, const media::GroupLayout &layout);
    void read_summaries(std::uint64_t group, const media::GroupLayout &layout);
    void check_summary(std::uint64_t group, const media::Summary &summary);
    void claim_fixed();
    // The bits of `block` and its neighbours in one word, where their bitmap is whole.
    std::optional<std::uint64_t> word_of(std::uint64_t block, bool classes) const;
    void say(Code code, const Fault &fault, std::uint64_t owner);
    void finish_group(std::uint64_t group);
    void finish_past_end(std::uint64_t group);
    // The free blocks of a chunk of which some are in use, as its bitmap says.
    std::uint32_t finish_chunk(std::uint64_t chunk, const media::Summary *summary);
    void check_kind(std::uint64_t chunk, std::uint8_t kind, Seen marked, Seen owned);
    void compare_bits(std::uint64_t block, std::uint64_t wrong, Code code);
    void end_run();
    void plan(std::uint64_t group);
    void plan_bitmaps(std::uint64_t group, bool classes);
    void plan_summaries(std::uint64_t group);
    void derive(std::uint64_t group, media::Summary &summary) const;

    Context &context_;
    std::vector<Group> groups_;
    LazyArray<std::uint64_t> owned_;           // one bit a block
    LazyArray<std::uint64_t> owned_metadata_;  // and as what
    Run run_;
    bool owned_twice_ = false;
};

}  // namespace pmfs::fsck
