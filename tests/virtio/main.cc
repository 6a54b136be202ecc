// The virtio suite: the vhost-user back end, driven by a front end without a guest.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>

namespace {

// A test that hangs ends the suite (SIGALRM).
struct Watchdog : doctest::IReporter {
    static constexpr unsigned kSeconds = 60;
    explicit Watchdog(const doctest::ContextOptions &) {}
    void test_case_start(const doctest::TestCaseData &) override { ::alarm(kSeconds); }
    void test_case_end(const doctest::CurrentTestCaseStats &) override { ::alarm(0); }
    void report_query(const doctest::QueryData &) override {}
    void test_run_start() override {}
    void test_run_end(const doctest::TestRunStats &) override {}
    void test_case_reenter(const doctest::TestCaseData &) override {}
    void test_case_exception(const doctest::TestCaseException &) override {}
    void subcase_start(const doctest::SubcaseSignature &) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData &) override {}
    void log_message(const doctest::MessageData &) override {}
    void test_case_skipped(const doctest::TestCaseData &) override {}
};

}  // namespace

REGISTER_LISTENER("watchdog", 1, Watchdog);
