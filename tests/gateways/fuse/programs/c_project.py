# SPDX-License-Identifier: Apache-2.0
"""A C project as people have them: ./configure that compiles probes, config.h, a Makefile with dependency files, a
static and a shared library, a program per part, and `make check`. Everything derives from a number of sources.
"""

from __future__ import annotations

from pathlib import Path

_CONFIGURE = r"""#!/bin/sh
# Probes the compiler as autoconf's scripts do: many small files, made, compiled and removed at once.
set -e
CC=${CC:-cc}; prefix=/usr/local
for arg; do case $arg in --prefix=*) prefix=${arg#*=};; *) echo "unknown option $arg" >&2; exit 1;; esac; done
echo "checking whether build environment is sane"
touch conftest.new; test -f conftest.new || exit 1
: > confdefs.h; : > config.log
probe() { # NAME SOURCE
  printf 'checking for %s... ' "$1"
  { cat confdefs.h; printf '%s\n' "$2"; } > conftest.c
  if $CC -o conftest conftest.c >> config.log 2>&1 && test -x conftest && ./conftest >> config.log 2>&1; then
    echo yes; echo "#define HAVE_$1 1" >> confdefs.h
  else echo no; echo "/* #undef HAVE_$1 */" >> confdefs.h; fi
  rm -f conftest conftest.c conftest.o
}
for header in stdio stdlib string strings unistd fcntl errno stdint sys/types sys/stat sys/mman dlfcn conio; do
  probe "$(echo $header | tr 'a-z/' 'A-Z_')_H" "#include <$header.h>
int main(void) { return 0; }"
done
for function in mmap fsync strlcpy_s memcpy getpid fork; do
  probe "$(echo $function | tr a-z A-Z)" "char $function(); int main(void) { return (long)&$function == 0; }"
done
mv confdefs.h config.h.new
if test -f config.h && cmp -s config.h config.h.new; then rm config.h.new; else mv config.h.new config.h; fi
sed -e "s|@CC@|$CC|g" -e "s|@prefix@|$prefix|g" Makefile.in > Makefile.new && mv -f Makefile.new Makefile
rm -f conftest.new
echo "config.status: done"
"""

_MAKEFILE = """CC = @CC@
prefix = @prefix@
CFLAGS = -O1 -fPIC -Wall -Werror -I. -Iinclude
SOURCES = $(sort $(wildcard src/*.c))
OBJECTS = $(SOURCES:.c=.o)
PROGRAMS = $(patsubst tools/%.c,bin/%,$(sort $(wildcard tools/*.c)))

all: lib/libparts.a lib/libparts.so $(PROGRAMS)
lib/libparts.a: $(OBJECTS)
\t@mkdir -p lib
\trm -f $@ && ar rcs $@ $^
lib/libparts.so: $(OBJECTS)
\t@mkdir -p lib
\t$(CC) -shared -o $@ $^
bin/%: tools/%.c lib/libparts.a
\t@mkdir -p bin
\t$(CC) $(CFLAGS) -o $@ $< lib/libparts.a
%.o: %.c Makefile config.h
\t$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<
-include $(SOURCES:.c=.d)

check: all
\t@for p in $(PROGRAMS); do ./$$p || { echo "FAIL: $$p"; exit 1; }; done; echo "all passed"
install: all
\tinstall -d $(DESTDIR)$(prefix)/lib $(DESTDIR)$(prefix)/bin
\tinstall -m 644 lib/libparts.a lib/libparts.so $(DESTDIR)$(prefix)/lib
\tinstall -m 755 $(PROGRAMS) $(DESTDIR)$(prefix)/bin
clean:
\trm -rf lib bin src/*.o src/*.d
.PHONY: all check install clean
"""


def make_project(root: Path, sources: int) -> None:
    """Part n includes its own header and those of four parts before it; its function calls theirs."""
    for folder in ("src", "include", "tools"):
        (root / folder).mkdir(parents=True)
    configure = root / "configure"
    configure.write_text(_CONFIGURE)
    configure.chmod(0o755)
    (root / "Makefile.in").write_text(_MAKEFILE)
    for n in range(sources):
        before = [n - step for step in (1, 2, 3, 5) if n >= step]
        header = f"#ifndef PART{n}_H\n#define PART{n}_H\n"
        header += "".join(f'#include "part{b}.h"\n' for b in before)
        header += f"#define PART{n}_VALUE {n * 7 + 1}\nunsigned part{n}(unsigned x, int depth);\n#endif\n"
        (root / f"include/part{n}.h").write_text(header)
        calls = "".join(f"  if (depth > 0) sum += part{b}(x + {b}, depth - 2) ^ PART{b}_VALUE;\n" for b in before)
        tables = ", ".join(str((n * 31 + i * i) % 65521) for i in range(400))
        (root / f"src/part{n}.c").write_text(
            f'#include "config.h"\n#include <string.h>\n#include "part{n}.h"\n'
            f"static const unsigned table[] = {{{tables}}};\n"
            f"unsigned part{n}(unsigned x, int depth) {{\n  unsigned sum = table[x % 400];\n{calls}  return sum;\n}}\n"
        )
    for n in range(0, sources, 10):
        (root / f"tools/tool{n}.c").write_text(
            f'#include <stdio.h>\n#include "part{n}.h"\n'
            f"int main(void) {{ unsigned a = part{n}({n}, 4), b = part{n}({n}, 4);"
            f' printf("part{n}: %u\\n", a); return a != b; }}\n'
        )
