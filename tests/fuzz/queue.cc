// A queue whose descriptors and rings have any content.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "fuzz/virtio.h"
#include "virtio/virtqueue.h"

namespace pmfs::test {
namespace {

constexpr std::size_t kMemory = 64 * kKiB, kUsed = 32 * kKiB;
constexpr std::uint64_t kGuest = 0x10000;
constexpr unsigned kSize = 16;
constexpr std::size_t kAvailable = kSize * sizeof(vring_desc);
constexpr std::size_t kBehind = kAvailable + 64;

struct Layout {
    std::array<vring_desc, kSize> descriptors{};
    std::uint16_t flags = 0, count = 0, ring[kSize] = {}, event = 0;
};

std::string seed_of(const Layout &layout, const std::vector<vring_desc> &behind = {}) {
    std::string seed(reinterpret_cast<const char *>(&layout), sizeof layout);
    seed.resize(kBehind);
    seed.append(reinterpret_cast<const char *>(behind.data()), behind.size() * sizeof(vring_desc));
    return seed;
}

// What the device does with a chain; and that it has what it says.
void use(virtio::Chain &chain, const std::byte *memory) {
    for (const auto &[pieces, size] : {std::pair(chain.readable(), chain.readable_size()),
                                       std::pair(chain.writable(), chain.writable_size())}) {
        std::size_t sum = 0;
        for (const iovec &piece : pieces) {
            sum += piece.iov_len;
            const auto *const at = static_cast<const std::byte *>(piece.iov_base);
            PMFS_ASSERT(at == nullptr ? !chain.whole()
                                      : at >= memory && piece.iov_len <= kMemory &&
                                            at + piece.iov_len <= memory + kMemory);
        }
        PMFS_ASSERT(sum == size);
    }
    std::array<std::byte, 1024> bytes{};
    chain.complete(chain.write(0, ConstBytes(bytes).first(chain.read(0, bytes))));
}

}  // namespace

void fuzz_queue(ConstBytes input) {
    const FileDescriptor fd(::memfd_create("fuzz", MFD_CLOEXEC));
    if (::ftruncate(fd.get(), kMemory) != 0) return;
    virtio::MemoryOwner nobody;
    virtio::GuestMemory memory(nobody);
    if (!memory.add({kGuest, kMemory, kGuest, 0}, fd).ok()) return;
    std::byte *const start = memory.table()->at_user(kGuest, kMemory);
    std::memcpy(start, input.data(), std::min(input.size(), kUsed));
    virtio::Virtqueue::Setup setup = {.size = kSize,
                                      .descriptors = kGuest,
                                      .available = kGuest + kAvailable,
                                      .used = kGuest + kUsed,
                                      .indirect = true};
    bool broken = false;
    for (const bool event_index : {false, true}) {
        setup.event_index = event_index;
        const auto queue = virtio::Virtqueue::make(
            setup, memory.table(), nobody, [&broken](const std::string &) { broken = true; });
        PMFS_ASSERT(queue.ok());
        for (unsigned i = 0; i < 2 * kSize; ++i) {
            auto chain = queue.value()->take();
            if (!chain) break;
            use(*chain, start);
        }
        PMFS_ASSERT(queue.value()->wait_idle(std::chrono::milliseconds(0)));
        (void)queue.value()->want_kicks();
    }
}

std::vector<std::string> queue_seeds() {
    const std::uint64_t data = kGuest + 0x4000;
    Layout direct;
    direct.descriptors[0] = {data, 64, VRING_DESC_F_NEXT, 1};
    direct.descriptors[1] = {data + 64, 32, VRING_DESC_F_NEXT, 2};
    direct.descriptors[2] = {data + 128, 512, VRING_DESC_F_WRITE, 0};
    direct.descriptors[3] = {data, 8, 0, 0};
    direct.count = 2;
    direct.ring[1] = 3;
    Layout indirect;
    indirect.descriptors[0] = {kGuest + kBehind, 48, VRING_DESC_F_INDIRECT, 0};
    indirect.count = 1;
    return {seed_of(direct),
            seed_of(indirect, {{data, 40, VRING_DESC_F_NEXT, 1},
                               {data + 64, 16, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2},
                               {data + 128, 4096, VRING_DESC_F_WRITE, 0}})};
}

}  // namespace pmfs::test
