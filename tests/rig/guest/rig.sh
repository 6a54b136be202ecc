# shellcheck shell=sh
# What a test in a guest says, for the host to count (tests/rig/guest.py).  Sourced:
#
#     check "words" COMMAND...     PASS, or FAIL with what the command said
#     refuse "words" TEXT COMMAND...   it must fail, and say TEXT
#     pass "words"; fail "words" "why"; info "a line to be shown"
#     wait_for SECONDS COMMAND...  until it succeeds
#     ask WORDS...                 the host does that now (guest.py's `answers`); what it says is in $answer
#     quiet_kernel                 for check: it has reported no bug (that it was slow is no bug)
#
# Each rig_NAME=VALUE on the kernel's command line is a variable.

for word in $(cat /proc/cmdline); do
    case $word in rig_*=*) eval "$word" ;; esac
done

pass() { echo "PASS $1"; }
fail() { echo "FAIL $1: $2"; }
info() { echo "INFO $1"; }

check() {
    rig_words=$1
    shift
    if "$@" >/tmp/said 2>&1; then
        pass "$rig_words"
    else
        fail "$rig_words" "exit code $? of: $*; it said: $(tail -n 12 /tmp/said | tr '\n' '|')"
        return 1
    fi
}

refuse() {
    rig_words=$1 rig_text=$2
    shift 2
    if "$@" >/tmp/said 2>&1; then
        fail "$rig_words" "succeeded: $*"
    elif grep -qF -e "$rig_text" /tmp/said; then
        pass "$rig_words"
    else
        fail "$rig_words" "does not say '$rig_text', but: $(tail -n 5 /tmp/said | tr '\n' '|')"
    fi
}

same() { # same A B: for check
    [ "$1" = "$2" ] || {
        echo "'$1' is not '$2'"
        return 1
    }
}

wait_for() {
    rig_tries=$(($1 * 20))
    shift
    until "$@" >/dev/null 2>&1; do
        rig_tries=$((rig_tries - 1))
        [ "$rig_tries" -gt 0 ] || return 1
        usleep 50000
    done
}

ask() {
    echo "ASK $*" >/dev/console
    read -r rig_word answer </dev/console
    [ "$rig_word" = ok ] || {
        echo "the host says: $answer"
        return 1
    }
}

quiet_kernel() {
    ! dmesg | grep -E 'BUG: |WARNING: |Oops|general protection' | grep -vE 'soft lockup|rcu|workqueue'
}
