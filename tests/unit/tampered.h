// A volume that is built by the engine, closed, changed by hand and opened again: for images whose
// checksums are right and whose content is not.
#pragma once
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "fsck/check.h"
#include "media/verify.h"
#include "mkfs/make.h"
#include "volume/volume.h"

namespace pmfs::test {

class Tampered {
public:
    explicit Tampered(std::uint64_t size = 16 << 20) {
        auto region = std::move(pm::memory_region(size)).take();
        REQUIRE(mkfs::make(*region, {}).ok());
        open(std::move(region));
    }
    Volume *operator->() { return volume_.get(); }
    Volume &operator*() { return *volume_; }

    void close() {
        REQUIRE(volume_->close().ok());
        const std::byte *bytes = volume_->region().meta();
        bytes_.assign(bytes, bytes + volume_->region().size());
        volume_.reset();
    }
    // What the mount says; the volume is there if it says ok.
    Result<> reopen() {
        auto region = std::move(pm::memory_region(bytes_.size())).take();
        region->fence(region->write(0, bytes_));
        auto opened = Volume::open(std::move(region), {});
        if (!opened.ok()) return opened.error();
        volume_ = std::move(opened).take();
        return {};
    }

    // --- between close() and reopen()
    void seal(std::uint64_t number) {
        media::seal_block(Bytes(bytes_.data() + number * media::kBlockSize, media::kBlockSize));
    }
    // What fsck says of it, code by code.
    std::string problems() {
        auto region = std::move(pm::memory_region(bytes_.size())).take();
        region->fence(region->write(0, bytes_));
        const auto report = fsck::check(*region);
        REQUIRE(report.ok());
        std::string text;
        for (const auto &problem : report.value().problems) text += fsck::text_of(problem) + "\n";
        return text;
    }
    template <class T>
    T &block(std::uint64_t number) {
        return *reinterpret_cast<T *>(bytes_.data() + number * media::kBlockSize);
    }
    const media::Superblock &sb() { return block<media::Superblock>(0); }
    media::Inode &inode(InodeNo ino) {
        const std::uint64_t at = ino.value() == media::kRootIno
                                     ? sb().root_block.get() * media::kBlockSize
                                     : ino.value() * media::kInodeSize;
        REQUIRE(at + media::kInodeSize <= bytes_.size());
        return *reinterpret_cast<media::Inode *>(bytes_.data() + at);
    }

private:
    void open(std::unique_ptr<pm::Region> region) {
        auto opened = Volume::open(std::move(region), {});
        REQUIRE(opened.ok());
        volume_ = std::move(opened).take();
    }
    std::vector<std::byte> bytes_;
    std::unique_ptr<Volume> volume_;
};

}  // namespace pmfs::test
