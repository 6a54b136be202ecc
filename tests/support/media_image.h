// What is on a medium, as a value: a shared base and the pages in which it differs.
//
// A crash sweep makes hundreds of thousands of them, nearly all alike.  Making one costs its
// changed pages, and running on one costs a copy of those: no whole image is ever copied twice.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"

namespace pmfs::test {

inline constexpr std::uint64_t kImagePage = 4096;
using ImagePageBytes = std::array<std::byte, kImagePage>;

class MediaBuffer;

class MediaImage {
public:
    // The size becomes a multiple of the page: the last one is filled up with zeroes.
    MediaImage(std::vector<std::byte> bytes);
    // With zeroes behind, up to `size`, which take no memory.
    MediaImage(std::vector<std::byte> bytes, std::uint64_t size);

    std::uint64_t size() const { return base_->size; }
    std::vector<std::byte> bytes() const;
    std::size_t changed_pages() const { return changes_.size(); }  // against the base

private:
    friend class MediaBuffer;
    friend class MediaEdit;
    struct Free {
        void operator()(std::byte *bytes) const { std::free(bytes); }
    };
    struct Memory {
        std::unique_ptr<std::byte[], Free> bytes;
        std::vector<bool> dirty;                 // by page
        std::vector<std::uint32_t> dirty_pages;  // the same, as a list
    };
    struct Base {
        // What page `page` has at first.
        void copy_page(std::byte *to, std::uint64_t page) const;

        std::vector<std::byte> bytes;  // whole pages; zeroes behind
        std::uint64_t size = 0;
        Mutex mutex;
        std::vector<Memory> spare GUARDED_BY(mutex);  // to be used again: warm, and nearly equal
    };
    struct Change {
        std::uint32_t page;
        std::shared_ptr<const ImagePageBytes> bytes;
    };
    explicit MediaImage(std::shared_ptr<Base> base) : base_(std::move(base)) {}

    std::shared_ptr<Base> base_;
    std::vector<Change> changes_;
};

// An image to run on.  Every change goes through it, so that it knows which pages differ from the
// base, and its memory can serve another image by putting just those back.
class MediaBuffer {
public:
    explicit MediaBuffer(const MediaImage &image);
    ~MediaBuffer();
    MediaBuffer(const MediaBuffer &) = delete;

    const std::byte *data() const { return memory_.bytes.get(); }
    std::uint64_t size() const { return base_->size; }
    void store(std::uint64_t offset, std::span<const std::byte> bytes);
    void fill(std::uint64_t offset, std::uint64_t size);  // with zeroes
    void load(const MediaImage &image);                   // of the same base
    // Cheap when little changed since the last call.
    MediaImage image();

private:
    friend class MediaEdit;
    void touch(std::uint64_t offset, std::uint64_t size);
    void reset();

    std::shared_ptr<MediaImage::Base> base_;
    MediaImage::Memory memory_;
    // By index into dirty_pages: what image() gave last time, if the page is still so.
    std::vector<std::shared_ptr<const ImagePageBytes>> given_;
    std::vector<std::uint32_t> place_;  // page -> its index into dirty_pages
};

// A buffer's image with some stores more, which the buffer itself never sees.
class MediaEdit {
public:
    explicit MediaEdit(MediaBuffer &buffer) : buffer_(buffer), image_(buffer.image()) {}
    void store(std::uint64_t offset, std::span<const std::byte> bytes);  // inside one page
    MediaImage image() && { return std::move(image_); }

private:
    MediaBuffer &buffer_;
    MediaImage image_;
    std::unordered_map<std::uint32_t, ImagePageBytes *> pages_;  // those that differ
};

}  // namespace pmfs::test
