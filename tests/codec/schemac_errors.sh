#!/bin/sh
# What schemac says about a schema that is wrong: file, line and a sentence, and no files written.
#
#   schemac_errors.sh SCHEMAC
set -u
schemac=$1
dir=$(mktemp -d "${TMPDIR:-/tmp}/schemac.XXXXXX")
trap 'rm -rf "$dir"' EXIT
failed=0

# expect "LINE: SENTENCE" < schema
expect() {
    cat > "$dir/schema"
    rm -f "$dir/m.h" "$dir/m.c"
    said=$("$schemac" "$dir/schema" "$dir/m.h" "$dir/m.c" 2>&1)
    status=$?
    if [ "$status" != 1 ] || [ "$said" != "$dir/schema:$1" ] || [ -e "$dir/m.h" ]; then
        printf 'expected status 1 and %s\ngot      status %s and %s\n' "$1" "$status" "$said"
        failed=1
    fi
}

# A schema of one API whose request has the given lines.
request() {
    printf 'api Ping 1  versions 0-3  flexible 2+\nrequest\n%s\nresponse\n    Code int16\n' "$1"
}

request '    A number' | expect '3: number is not a type'
request '    A int32 5+' | expect '3: versions 5+ are not inside 0-3'
request '    A int32 2-9' | expect '3: versions 2-9 are not inside 0-3'
request '    A int32 3-2' | expect '3: versions 3-2 are not inside 0-3'
request '    A int32 x' | expect '3: x is not an attribute'
request '    A int32?' | expect '3: int32 cannot be null'
request '    A string = null' | expect '3: A is not nullable: no default null'
request '    A string = 5' | expect '3: 5 cannot be the default of A'
request '    A {}' | expect '3: A is a struct without fields'
request '    A {}?' | expect '3: A: a struct that may be null is null by default; write = null'
request '    A int8 tag 0' | expect '3: A has a tag in versions that are not flexible'
request '    A int8 2+ tag 8' | expect '3: 8 is not a number between 0 and 7'
request '    A' | expect '3: write: NAME TYPE [VERSIONS] [tag N] [= DEFAULT] [ignorable]'
request '   A int8' | expect '3: indented by 3: a field stands 4 columns right of what it belongs to'
request '        A int8' |
    expect '3: indented by 8: a field stands 4 columns right of what it belongs to'
request '    A int8
        B int8' | expect '4: A has no fields of its own'
request '    A int8
    A int16' | expect '4: A is there twice'
request '    A int8
request' | expect '4: Ping has two messages of kind request'
printf 'request\n    A int8\n' | expect '1: request stands before its api'
printf 'api Ping 1 versions 0\nrequest\n' | expect '2: Ping lacks its request or its response'
printf 'api Ping\n' | expect '1: write: api NAME KEY versions FIRST-LAST [flexible FIRST+]'
printf 'api Ping 1 versions 0\nrequest\nresponse\napi Pong 1 versions 0\n' |
    expect '4: api Pong has the name or the key of another one'
printf 'hello\n' | expect '1: hello: only api, request and response begin a line'

request '    A int8' > "$dir/schema"
"$schemac" "$dir/schema" "$dir/m.h" "$dir/m.c" || failed=1
exit $failed
