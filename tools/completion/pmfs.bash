# Completion for bash: pmfsctl, mkfs.pmfs, fsck.pmfs and mount.pmfs.
#
# Verbs and options come from --help, so that there is no second list of them to keep true.

_pmfs_words() {
    # What a help page offers: options, or (pmfsctl itself) verbs.
    "$@" --help 2>/dev/null | if [ "$_pmfs_want" = verbs ]; then
        sed -n '/^Subcommands:/,/^$/s/^  \([a-z]\{1,\}\) .*/\1/p'
    else
        grep -o -e '--[a-z][a-z-]*' | sort -u
    fi
}

_pmfs_sources() {
    local cur=$1 prefix
    for prefix in label: uuid:; do
        [[ $prefix == "$cur"* ]] && COMPREPLY+=("$prefix")
    done
    compopt -o filenames -o nospace 2>/dev/null
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$cur")
}

_pmfs_complete() {
    local cur=${COMP_WORDS[COMP_CWORD]} name=${1##*/} _pmfs_want=options
    local -a of=("$1")
    COMPREPLY=()
    if [ "$name" = pmfsctl ]; then
        if [ "$COMP_CWORD" = 1 ]; then
            _pmfs_want=verbs
            mapfile -t COMPREPLY < <(compgen -W "$(_pmfs_words "$1") --help" -- "$cur")
            return
        fi
        of+=("${COMP_WORDS[1]}")
    fi
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$(_pmfs_words "${of[@]}")" -- "$cur")
    elif [[ $name == mount.pmfs || $name == fsck.pmfs ]]; then
        _pmfs_sources "$cur"
    else
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}

complete -F _pmfs_complete pmfsctl mkfs.pmfs fsck.pmfs mount.pmfs
