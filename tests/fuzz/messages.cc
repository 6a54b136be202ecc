// Messages of any content to a session, with queues that run.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/descriptor_message.h"
#include "fuzz/virtio.h"
#include "virtio/session.h"

namespace pmfs::test {

using virtio::Header;
using virtio::Request;

namespace {

constexpr std::size_t kMemory = 64 * kKiB, kMessagesMax = 64;
constexpr std::uint64_t kUser = 0x10000;

// What stands before each payload.
struct Frame {
    std::uint8_t request, flags, fds;  // fds: how many in the low half, which in the high one
    std::uint8_t size[2];
};

class FuzzDevice : public virtio::Device {
public:
    unsigned queues() const override { return 2; }
    ConstBytes config() const override { return {}; }
    std::uint64_t window_size() const override { return kMiB; }
    void connected(const virtio::Peer &, std::shared_ptr<virtio::BackChannel>) override {}
    void request(unsigned, std::unique_ptr<virtio::Chain> chain) override {
        std::array<std::byte, 512> bytes;
        chain->complete(chain->write(0, ConstBytes(bytes).first(chain->read(0, bytes))));
    }
};

FileDescriptor descriptor_of(unsigned kind) {
    if (kind % 3 == 0) return FileDescriptor(::eventfd(1, EFD_CLOEXEC));
    if (kind % 3 == 1) return FileDescriptor(::open("/dev/null", O_RDWR | O_CLOEXEC));
    FileDescriptor memory(::memfd_create("fuzz", MFD_CLOEXEC));
    (void)!::ftruncate(memory.get(), kMemory);
    return memory;
}

void send(int socket, const Frame &frame, ConstBytes payload) {
    const Header header = {frame.request, frame.flags, static_cast<std::uint32_t>(payload.size())};
    std::vector<std::byte> bytes(sizeof header + payload.size());
    std::memcpy(bytes.data(), &header, sizeof header);
    if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    std::vector<FileDescriptor> held;
    std::vector<int> fds;
    for (int i = 0; i < (frame.fds & 15); ++i) {
        held.push_back(descriptor_of(frame.fds >> 4));
        fds.push_back(held.back().get());
    }
    (void)!send_with(socket, bytes, fds, MSG_DONTWAIT);
}

void put(std::string *seed, Request request, unsigned fds, ConstBytes payload) {
    const Frame frame = {static_cast<std::uint8_t>(request),
                         Header::kVersion | Header::kNeedReply,
                         static_cast<std::uint8_t>(fds),
                         {static_cast<std::uint8_t>(payload.size()),
                          static_cast<std::uint8_t>(payload.size() >> 8)}};
    seed->append(reinterpret_cast<const char *>(&frame), sizeof frame);
    seed->append(reinterpret_cast<const char *>(payload.data()), payload.size());
}

void put_number(std::string *seed, Request request, std::uint64_t number, unsigned fds = 0) {
    put(seed, request, fds, bytes_of(number));
}

void put_state(std::string *seed, Request request, unsigned index, unsigned number) {
    const vhost_vring_state state = {index, number};
    put(seed, request, 0, bytes_of(state));
}

}  // namespace

bool fuzz_messages(ConstBytes input) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return false;
    const FileDescriptor ours(pair[0]);
    const FileDescriptor stop(::eventfd(0, EFD_CLOEXEC));
    FuzzDevice device;
    auto channel = virtio::BackChannel::make();
    if (!channel.ok()) return false;
    virtio::Session session(device, {.memory_slots = true}, FileDescriptor(pair[1]), stop.get(),
                            std::move(channel).take());
    std::array<std::byte, 65536> answers;
    for (std::size_t i = 0; i < kMessagesMax && input.size() >= sizeof(Frame); ++i) {
        const auto frame = load<Frame>(input);
        input = input.subspan(sizeof frame);
        const std::size_t size = std::min<std::size_t>(
            input.size(), static_cast<std::size_t>(frame.size[0] + 256 * frame.size[1]));
        send(ours.get(), frame, input.first(size));
        input = input.subspan(size);
        if (!session.step().ok()) return false;
        while (::recv(ours.get(), answers.data(), answers.size(), MSG_DONTWAIT) > 0) {
        }
    }
    return true;
}

std::vector<std::string> message_seeds() {
    std::string seed;
    put(&seed, Request::get_features, 0, {});
    put(&seed, Request::get_protocol_features, 0, {});
    put_number(&seed, Request::set_protocol_features,
               bit(virtio::Protocol::reply_ack) | bit(virtio::Protocol::shmem));
    put_number(&seed, Request::set_features,
               virtio::kFeatureProtocol | std::uint64_t{1} << VIRTIO_F_VERSION_1 |
                   std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
    const virtio::SingleRegion region = {0, {0x1000, kMemory, kUser, 0}};
    std::string slots = seed;
    put(&slots, Request::add_mem_reg, 0x21, bytes_of(region));
    put(&slots, Request::rem_mem_reg, 0, bytes_of(region));
    put(&slots, Request::get_shmem_config, 0, {});
    struct {
        std::uint32_t count = 1, padding = 0;
        virtio::MemoryRegion region;
    } table{.region = region.region};
    put(&seed, Request::set_mem_table, 0x21, bytes_of(table));
    for (unsigned index = 0; index < 2; ++index) {
        put_state(&seed, Request::set_vring_num, index, 16);
        put_state(&seed, Request::set_vring_base, index, 0);
        const vhost_vring_addr address = {index, 0, kUser, kUser + 0x200, kUser + 0x100, 0};
        put(&seed, Request::set_vring_addr, 0, bytes_of(address));
        put_number(&seed, Request::set_vring_call, index, 0x01);
        put_number(&seed, Request::set_vring_kick, index, 0x01);
        put_state(&seed, Request::set_vring_enable, index, 1);
    }
    put(&seed, Request::set_mem_table, 0x21, bytes_of(table));
    put_number(&seed, Request::set_status, 15);
    put(&seed, Request::get_status, 0, {});
    const virtio::ConfigAccess access = {0, 0, 0};
    put(&seed, Request::get_config, 0, bytes_of(access));
    put_state(&seed, Request::get_vring_base, 0, 0);
    put(&seed, Request::reset_device, 0, {});
    put_number(&seed, Request::set_status, 0);
    return {seed, slots};
}

}  // namespace pmfs::test
