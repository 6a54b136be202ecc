// Stores that ThreadSanitizer does not check.
//
// Threads read and write bytes of files in an order that it does not know: one request follows
// another, on another thread, because a program made one call after the other, and the kernel has
// its answer before we leave the read that returned it.  Two calls at once are that program's own
// race.  (A suppression would need the stack of the store, which is often lost.)
#pragma once

#if defined(__SANITIZE_THREAD__)
extern "C" {
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
}
#endif

namespace pmfs {

// For a scope, of this thread.
class UncheckedStores {
public:
#if defined(__SANITIZE_THREAD__)
    UncheckedStores() {
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    }
    ~UncheckedStores() {
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    }
#else
    UncheckedStores() {}
#endif
    UncheckedStores(const UncheckedStores &) = delete;
    UncheckedStores &operator=(const UncheckedStores &) = delete;
};

}  // namespace pmfs
