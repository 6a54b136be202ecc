// Images share pages, and buffers share memory.
#include "support/media_image.h"

#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/bytes.h"

namespace pmfs::test {

MediaImage::MediaImage(std::vector<std::byte> bytes, std::uint64_t size)
    : base_(std::make_shared<Base>()) {
    PMFS_ASSERT(bytes.size() <= size);
    bytes.resize(align_up(bytes.size(), kImagePage));
    base_->size = align_up(size, kImagePage);
    base_->bytes = std::move(bytes);
}

MediaImage::MediaImage(std::vector<std::byte> bytes) : base_(std::make_shared<Base>()) {
    bytes.resize(align_up(bytes.size(), kImagePage));
    base_->size = bytes.size();
    base_->bytes = std::move(bytes);
}

void MediaImage::Base::copy_page(std::byte *to, std::uint64_t page) const {
    if (page * kImagePage < bytes.size())
        std::memcpy(to, bytes.data() + page * kImagePage, kImagePage);
    else
        std::memset(to, 0, kImagePage);
}

std::vector<std::byte> MediaImage::bytes() const {
    std::vector<std::byte> all = base_->bytes;
    all.resize(base_->size);
    for (const Change &change : changes_)
        std::memcpy(all.data() + change.page * kImagePage, change.bytes->data(), kImagePage);
    return all;
}

MediaBuffer::MediaBuffer(const MediaImage &image) : base_(image.base_) {
    {
        const Lock lock(base_->mutex);
        if (!base_->spare.empty()) {
            memory_ = std::move(base_->spare.back());
            base_->spare.pop_back();
        }
    }
    const std::uint64_t pages = base_->size / kImagePage;
    if (memory_.bytes == nullptr) {
        memory_.bytes.reset(static_cast<std::byte *>(std::calloc(pages, kImagePage)));
        PMFS_ASSERT(memory_.bytes != nullptr || pages == 0);
        std::memcpy(memory_.bytes.get(), base_->bytes.data(), base_->bytes.size());
        memory_.dirty.resize(pages);
    }
    place_.resize(pages);
    load(image);
}

MediaBuffer::~MediaBuffer() {
    const Lock lock(base_->mutex);
    base_->spare.push_back(std::move(memory_));
}

void MediaBuffer::reset() {
    for (const std::uint32_t page : memory_.dirty_pages) {
        base_->copy_page(memory_.bytes.get() + page * kImagePage, page);
        memory_.dirty[page] = false;
    }
    memory_.dirty_pages.clear();
    given_.clear();
}

void MediaBuffer::load(const MediaImage &image) {
    PMFS_ASSERT(image.base_ == base_);
    reset();
    for (const MediaImage::Change &change : image.changes_) {
        const std::uint64_t at = change.page * kImagePage;
        touch(at, kImagePage);
        std::memcpy(memory_.bytes.get() + at, change.bytes->data(), kImagePage);
        given_.back() = change.bytes;
    }
}

void MediaBuffer::touch(std::uint64_t offset, std::uint64_t size) {
    PMFS_ASSERT(offset <= base_->size && size <= base_->size - offset);
    if (size == 0) return;
    for (std::uint64_t page = offset / kImagePage; page <= (offset + size - 1) / kImagePage;
         ++page) {
        if (memory_.dirty[page]) {
            given_[place_[page]] = nullptr;
            continue;
        }
        memory_.dirty[page] = true;
        place_[page] = static_cast<std::uint32_t>(memory_.dirty_pages.size());
        memory_.dirty_pages.push_back(static_cast<std::uint32_t>(page));
        given_.push_back(nullptr);
    }
}

void MediaBuffer::store(std::uint64_t offset, std::span<const std::byte> bytes) {
    touch(offset, bytes.size());
    std::memcpy(memory_.bytes.get() + offset, bytes.data(), bytes.size());
}

void MediaBuffer::fill(std::uint64_t offset, std::uint64_t size) {
    touch(offset, size);
    std::memset(memory_.bytes.get() + offset, 0, size);
}

MediaImage MediaBuffer::image() {
    MediaImage image(base_);
    image.changes_.reserve(memory_.dirty_pages.size());
    for (std::size_t i = 0; i < memory_.dirty_pages.size(); ++i) {
        const std::uint32_t page = memory_.dirty_pages[i];
        if (given_[i] == nullptr) {
            auto copy = std::make_shared_for_overwrite<ImagePageBytes>();
            std::memcpy(copy->data(), memory_.bytes.get() + page * kImagePage, kImagePage);
            given_[i] = std::move(copy);
        }
        image.changes_.push_back({page, given_[i]});
    }
    return image;
}

void MediaEdit::store(std::uint64_t offset, std::span<const std::byte> bytes) {
    const auto page = static_cast<std::uint32_t>(offset / kImagePage);
    PMFS_ASSERT(offset % kImagePage + bytes.size() <= kImagePage);
    ImagePageBytes *&mine = pages_[page];
    if (mine == nullptr) {
        auto copy = std::make_shared_for_overwrite<ImagePageBytes>();
        std::memcpy(copy->data(), buffer_.data() + page * kImagePage, kImagePage);
        mine = copy.get();
        if (buffer_.memory_.dirty[page]) {
            image_.changes_[buffer_.place_[page]].bytes = std::move(copy);
        } else {
            image_.changes_.push_back({page, std::move(copy)});
        }
    }
    std::memcpy(mine->data() + offset % kImagePage, bytes.data(), bytes.size());
}

}  // namespace pmfs::test
