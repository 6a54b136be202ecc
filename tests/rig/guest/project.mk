# A small project that a guest builds with make and tcc on the files that it has over virtiofs: programs of
# the rig itself, and forty units that go into one library.
units := $(shell seq 1 40)
objects := $(units:%=unit-%.o)

all: file_calls fallocate_seal units
file_calls fallocate_seal: %: %.c claims.h
	tcc -o $@ $<
unit-%.c:
	echo 'int unit_$*(void) { return $*; }' >$@
unit-%.o: unit-%.c
	tcc -c -o $@ $<
libunits.a: $(objects)
	tcc -ar rcs $@ $^
main.c:
	{ echo '#include <stdio.h>'; $(foreach n,$(units),echo 'int unit_$(n)(void);';) \
	  echo 'int main(void) { printf("%d\n", 0'; $(foreach n,$(units),echo '+ unit_$(n)()';) echo '); return 0; }'; } >$@
units: main.c libunits.a
	tcc -o $@ main.c libunits.a
.SECONDARY:
