#!/usr/bin/env bash
# Bring a ranker up to date, day after day: fetch, extend, continue, validate, gate, export, apply, store, swap.
#
#     daily.sh PLACE [LAST]      LAST is the last day to take, as 2026-01-31 (default: yesterday)
#
# PLACE is a folder with settings.sh. Every step leaves one file or folder of the day, whole or not at all, and a step
# whose result is there is not done again. So a call that was killed is repeated as it is, and ends in the same state.
# Exit codes: 0 all days are in service; 3 the gate refused a day; 75 another call is running; others are those of the
# step that failed.
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")") # before cd: the path may be relative
cd "${1:?usage: daily.sh PLACE [LAST]}"

UNIMIXER=unimixer PYTHON=python3 ZONE=UTC RELOAD='' STORE=''
source ./settings.sh # FETCH, RECIPE, and the names above

yesterday() { # in the zone of the days, where UTC may be further
    "$PYTHON" -c 'import sys; from datetime import *; from zoneinfo import ZoneInfo
print((datetime.now(ZoneInfo(sys.argv[1])) - timedelta(days=1)).date())' "$ZONE"
}
last=${2:-$(yesterday)}

mkdir -p raw runs validation deltas bundles logs
exec 9> lock
if ! flock -n 9; then
    echo "another call is running in $PWD; wait for its end" >&2
    exit 75
fi
find . -maxdepth 2 -name '.*.tmp*' -exec rm -rf {} + # of calls that were killed

say() {
    echo "$(date -u +%FT%TZ) $*" | tee -a daily.log
}

step() { # NAME COMMAND...: run a command and keep what it says
    local name=$1 started=$SECONDS code=0
    shift
    say "$day $name begins"
    "$@" >> "logs/$day.log" 2>&1 || code=$?
    if [ $code -ne 0 ]; then
        say "$day $name failed with exit code $code; its output is in logs/$day.log"
        exit $code
    fi
    say "$day $name ended after $((SECONDS - started)) s"
}

write() { # FILE COMMAND...: keep the output of a command, whole or not at all
    local file=$1 hidden
    hidden=$(dirname "$file")/.$(basename "$file").tmp
    shift
    "$@" > "$hidden" && mv "$hidden" "$file"
}

fetch() {
    [ -e "raw/$day.parquet" ] || { $FETCH "$day" "raw/.$day.tmp" && mv "raw/.$day.tmp" "raw/$day.parquet"; }
}

last_day() { # the last day that was appended to the dataset
    "$PYTHON" -c 'import json; print(*[day["last"] for day in json.load(open("data/manifest.json")).get("days", [])][-1:])'
}

extend() {
    [ "$(last_day)" = "$day" ] || $UNIMIXER data extend data --raw "raw/$day.parquet"
}

continue_training() {
    if [ -e "runs/$day" ]; then
        $UNIMIXER train --resume "runs/$day" --data data
    else
        $UNIMIXER train "$RECIPE" --continue "runs/$before" --data data --run "runs/$day"
    fi
}

validate() {
    [ -e "validation/$day.json" ] || write "validation/$day.json" $UNIMIXER evaluate "runs/$day" --data data --json
}

gate() {
    [ -e "validation/$day.accepted" ] || "$PYTHON" "$here/gate.py" "validation/$day.json" bounds.json
}

export_delta() {
    [ -e "deltas/$day" ] || $UNIMIXER export "runs/$day" --data data --delta "bundles/$before" --out "deltas/$day"
}

apply() {
    [ -e "bundles/$day" ] || $UNIMIXER bundle apply "bundles/$before" "deltas/$day" --out "bundles/$day"
}

store() { # all raw days; leave STORE empty where the service itself sends its rows and events to the server
    [ -z "$STORE" ] || $UNIMIXER store build "runs/$day" --raw raw --other-data --out "$STORE" --overwrite
}

point() { # let the link name the bundle of a day, at one moment
    ln -sfn "bundles/$1" fresh && mv -T fresh current
}

swap() {
    point "$day" || return
    [ -n "$RELOAD" ] || return 0
    $RELOAD && return
    echo "the server refuses the bundle of $day and goes on with that of $before"
    point "$before"
    return 1
}

[ -e shipped ] || { say "no file 'shipped' with the last day in service; begin as docs/days_serving.md says"; exit 2; }
before=$(< shipped)
while [[ $before < $last ]]; do
    day=$(date -u -d "$before + 1 day" +%F)
    step fetch fetch
    step extend extend
    step continue continue_training
    step validate validate
    step gate gate
    step export export_delta
    step apply apply
    step store store
    step swap swap
    write shipped echo "$day"
    say "$day in service"
    before=$day
done
