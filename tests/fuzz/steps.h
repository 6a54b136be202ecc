// The grammar of the requests fuzzer: what 16 bytes of its input mean.
//
// Every byte string is an input, and every byte of a step has a meaning of its own, so that a
// mutation changes one thing: which node, which handle, which size. What clients were given (node
// ids, open files, grants) is named by its place in a list, because random numbers would name
// nothing; some values of each byte stand for forged numbers.
#pragma once
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace pmfs::test {

struct Step {
    // Below kControls: an opcode.
    std::uint8_t what;
    std::uint8_t who;                 // the client, and its user
    std::uint8_t node, handle;        // of what the client was given
    std::uint8_t name, other;         // a name; a second one, or a second node
    std::uint8_t offset, size;        // see number()
    std::uint8_t a, b, c, d;          // flags and modes
    std::uint8_t twist, twist_where;  // how the message is spoiled
    std::uint8_t value, more;
};
static_assert(sizeof(Step) == 16);

inline constexpr std::size_t kStepsMax = 48;

// Steps that are no requests.
enum Control : std::uint8_t {
    kControls = 0xf0,
    kMonitorMode = kControls,  // `a`: how the VMM answers from now on
    kResetDevice,
    kReconnect,
    kStopQueues,
    kPause,  // longer than a lease lasts
    kWaitAll,
};

// How the VMM answers.
enum Mode : std::uint8_t {
    kObeys,
    kRefusesMaps,
    kTellsNothing,   // maps, but puts nothing into its memory table
    kRefusesUnmaps,  // and keeps the mapping
    kLies,           // says that it has unmapped, and keeps the mapping
    kHangsUp,        // at the next request
    kBabbles,        // answers another request than was asked
    kModes,
};

enum Twist : std::uint8_t {
    kNoTwist,
    kCut,
    kLonger,
    kOtherByte,
    kWrongLength,
    kNoNumber,    // unique is 0
    kSameNumber,  // unique is that of the request before
    kManyPieces,
    kLittleRoom,  // for the reply
    kNoRoom,
    kBadSource,     // a readable piece at an address without memory
    kBadTarget,     // a writable one
    kWindowSource,  // in the window
    kWindowTarget,
    kUrgentQueue,
    kTwists,
};

// What a client was given so far, or before.
struct Known {
    struct Open {
        std::uint64_t node, handle;
    };
    std::vector<std::uint64_t> nodes = {1};
    std::vector<Open> opens;
    std::vector<std::uint64_t> grants;
    std::uint64_t unique = 0;  // of the last request
    void add_node(std::uint64_t node);
    void add_open(std::uint64_t node, std::uint64_t handle);
    void add_grant(std::uint64_t grant);
};

// The message of a step that is a request: with its header, but without the twist.
std::string message_of(const Step &step, const Known &known);
// What the body of a good reply gives the client; `node`: the one that the request named.
void learn(const Step &step, std::uint64_t node, ConstBytes body, Known *known);

// An input: whole steps, behind a byte of options.
std::vector<Step> steps_of(ConstBytes input);
std::string input_of(std::uint8_t options, const std::vector<Step> &steps);
// Changes, adds, removes or moves steps.
void mutate_steps(std::string *input, std::mt19937 &random);
std::vector<std::string> request_seeds();

}  // namespace pmfs::test
