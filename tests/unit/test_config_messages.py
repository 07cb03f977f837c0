"""What people read when a workload file is wrong: the whole message, with place, what was found, what was expected, and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sai3ssh.errors import Sai3sshError
from tests.unit.test_config import GOOD, changed, compiled
from tests.unit.test_json_schema import errors

# Lines of GOOD: 1 target, 2 duration, 3 concurrency, 4 s3, 5 to 7 prepare, 8 to 10 workload; what is appended begins in line 11.
WHOLE = {
    "a typo in a key": (
        GOOD.replace("concurrency", "concurency"),
        ":3:1: unknown key 'concurency'; did you mean 'concurrency'?",
    ),
    "a typo in a section": (
        GOOD.replace("prepare:", "prepair:"),
        ":5:1: unknown key 'prepair'; did you mean 'prepare'?",
    ),
    "a typo in a key of s3": (
        GOOD.replace("endpoint_url", "endpoint_uri"),
        ":4:6: unknown key 'endpoint_uri'; did you mean 'endpoint_url'?",
    ),
    "a typo in an operation's key": (
        GOOD.replace("weight: 70", "wieght: 70"),
        ":9:28: unknown key 'wieght'; did you mean 'weight'?",
    ),
    "a typo in an operation": (
        GOOD.replace("op: get", "op: gett"),
        (
            ":9:6: workload.0.op: expected 'get', 'put', 'list', 'stat', 'delete', 'copy', 'mkdir' or 'rmdir', found "
            "'gett'; did you mean 'get'?"
        ),
    ),
    "an operation of another tool": (
        GOOD.replace("op: get", "op: read"),
        (
            ":9:6: workload.0.op: expected 'get', 'put', 'list', 'stat', 'delete', 'copy', 'mkdir' or 'rmdir', found "
            "'read'; did you mean 'get'?"
        ),
    ),
    "a typo in a policy": (
        GOOD + "distributed: {failure_policy: best_efort}\n",
        (
            ":11:15: distributed.failure_policy: expected 'fail_fast', 'retry_once', 'retry', 'best_effort' or "
            "'continue_if_majority', found 'best_efort'; did you mean 'best_effort'?"
        ),
    ),
    "a typo in a type of stage": (
        GOOD + "stages: [{name: a, type: prepair}]\n",
        (
            ":11:20: stages.0.type: expected 'prepare', 'execute', 'cleanup', 'verify', 'validation', 'hybrid' or 'custom', found "
            "'prepair'; "
            "did you mean 'prepare'?"
        ),
    ),
    "a typo in a size law": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: unifrom, min: 1, max: 2}}\nworkload"),
        (
            ":7:50: prepare.ensure_objects.0.size_spec.type: expected 'fixed', 'uniform', 'lognormal' or 'histogram', found"
            " 'unifrom'; did you mean 'uniform'?"
        ),
    ),
    "a key in another section's place": (
        GOOD + "endpoint_url: http://10.0.0.1:9000\n",
        ":11:1: unknown key 'endpoint_url' here; it belongs below azure or below gcs or below s3",
    ),
    "a key of the file below distributed": (
        GOOD + "distributed: {concurrency: 5}\n",
        ":11:15: unknown key 'concurrency' here; it belongs at the top of the file",
    ),
    "a key of distributed at the top": (
        GOOD + "failure_policy: retry\n",
        ":11:1: unknown key 'failure_policy' here; it belongs below distributed",
    ),
    "a key of an operation in ensure_objects": (
        GOOD.replace("count: 1000", "count: 1000, weight: 5"),
        ":7:38: unknown key 'weight' here; it belongs below workload",
    ),
    "a key that nothing is like": (
        GOOD + "deadlines: {zzz: 1}\n",
        ":11:13: unknown key 'zzz'; known here: connect, first_byte, total",
    ),
    "a variable as a key": (
        GOOD + "${KEY}: 1\n",
        ":11:1: unknown key '${KEY}': a variable stands for a value, not for a key",
    ),
    "words for a number": (
        GOOD.replace("concurrency: 8", "concurrency: eight"),
        ":3:1: concurrency: expected a whole number, found 'eight'",
    ),
    "a number in quotes": (
        GOOD.replace("concurrency: 8", 'concurrency: "8"'),
        ":3:1: concurrency: expected a whole number, found '8'; take the quotes away",
    ),
    "a fraction for a whole number": (
        GOOD.replace("concurrency: 8", "concurrency: 8.5"),
        ":3:1: concurrency: expected a whole number, found 8.5",
    ),
    "a list for a number": (
        GOOD.replace("concurrency: 8", "concurrency: [8]"),
        ":3:1: concurrency: expected a whole number, found [8]",
    ),
    "words for a switch": (
        GOOD + "pin_workers: sometimes\n",
        ":11:1: pin_workers: expected true or false, found 'sometimes'",
    ),
    "a number for a switch": (
        GOOD + "dynamic_put_pool: 1\n",
        ":11:1: dynamic_put_pool: expected true or false, found 1",
    ),
    "a number for a name": (
        GOOD + "name: 2026\n",
        ":11:1: name: expected text, found 2026; put it in quotes",
    ),
    "a name with spaces": (
        GOOD + "name: my first run\n",
        ":11:1: name: expected 1 to 40 letters, digits, '_', '.' and '-', found 'my first run'",
    ),
    "nothing for a duration": (
        GOOD.replace("30s", ""),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found nothing",
    ),
    "a switch for a duration": (
        GOOD.replace("30s", "yes"),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found true",
    ),
    "a mapping for a list": (
        GOOD[: GOOD.index("workload:")] + "workload: {op: get, path: data/, weight: 1}\n",
        ":8:1: workload: expected a list, with a - before each entry, found {'op': 'get', 'path': 'data/', 'weight': 1}",
    ),
    "words for a section": (
        GOOD + "deadlines: short\n",
        ":11:1: deadlines: expected a mapping of keys (connect, first_byte, total), found 'short'",
    ),
    "one endpoint that is no list": (
        changed(s3=None, multi_endpoint={"endpoints": "http://a:1"}),
        ":18:3: multi_endpoint.endpoints: expected a list, with a - before each entry, found 'http://a:1'",
    ),
    "a weight that is missing": (
        GOOD.replace(", weight: 70", ""),
        ":9:5: workload.0: the key 'weight' is missing, for example weight: 50",
    ),
    "a type of a stage that is missing": (
        GOOD + "stages: [{name: load}]\n",
        ":11:10: stages.0: the key 'type' is missing, for example type: execute",
    ),
    "a path that is missing": (
        GOOD.replace("path: data/, weight: 70", "weight: 70"),
        ":9:5: workload.0: the key 'path' is missing, for example path: data/",
    ),
    "a duration in another unit": (
        GOOD.replace("30s", "30 weeks"),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found '30 weeks'",
    ),
    "a duration with a comma": (
        GOOD.replace("30s", "1,5m"),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found '1,5m'",
    ),
    "a negative duration": (
        GOOD.replace("30s", "-30s"),
        ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found '-30s'",
    ),
    "no duration": (
        GOOD.replace("30s", "0s"),
        ":2:1: duration: expected more than 0s, found '0s'",
    ),
    "a size in another unit": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: 4PB"),
        ":7:38: prepare.ensure_objects.0.size_spec: expected a size such as 4096, 64KiB or 8MB, found '4PB'",
    ),
    "a size in bits": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: 4 Kibit"),
        ":7:38: prepare.ensure_objects.0.size_spec: expected a size such as 4096, 64KiB or 8MB, found '4 Kibit'",
    ),
    "a part of a byte": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: 0.3KiB"),
        ":7:38: prepare.ensure_objects.0.size_spec: expected a whole number of bytes, found '0.3KiB'",
    ),
    "a size with a sign": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: -1"),
        ":7:38: prepare.ensure_objects.0.size_spec: expected a size such as 4096, 64KiB or 8MB, found -1",
    ),
    "a size that is too large": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, size_spec: 6TiB"),
        ":7:38: prepare.ensure_objects.0.size_spec: 6TiB is more than an object can have (5TiB)",
    ),
    "sizes the wrong way round": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {type: uniform, min: 8MiB, max: 4KiB}}\nworkload"),
        ":7:38: prepare.ensure_objects.0.size_spec: min (8MiB) is greater than max (4KiB); exchange them",
    ),
    "old sizes the wrong way round": (
        GOOD.replace("count: 1000, size_spec: 4KiB", "count: 1000, min_size: 8MiB, max_size: 4KiB"),
        ":7:38: min_size (8MiB) is greater than max_size (4KiB); exchange them",
    ),
    "a size law without a type": (
        GOOD.replace("size_spec: 4KiB}\nworkload", "size_spec: {min: 1, max: 2}}\nworkload"),
        (
            ":7:38: prepare.ensure_objects.0.size_spec: expected a size such as 4KiB, or a mapping with type: fixed, "
            "uniform, lognormal or histogram; add the type"
        ),
    ),
    "a count with a unit": (
        GOOD.replace("count: 1000", "count: 1M"),
        ":7:25: prepare.ensure_objects.0.count: expected a whole number such as 1000000 or 1,000,000, found '1M'",
    ),
    "a count in exponential form": (
        GOOD.replace("count: 1000", "count: 1e6"),
        ":7:25: prepare.ensure_objects.0.count: expected a whole number such as 1000000 or 1,000,000, found '1e6'",
    ),
    "a part of an object": (
        GOOD.replace("count: 1000", "count: 10.5"),
        ":7:25: prepare.ensure_objects.0.count: expected a whole number, found 10.5",
    ),
    "a rate with a unit": (
        GOOD + "io_rate: {iops: 500/s}\n",
        ":11:11: io_rate.iops: expected operations per second such as 500 or max, found '500/s'",
    ),
    "a share above all": (
        GOOD + "distributed: {min_coverage: 95}\n",
        ":11:15: distributed.min_coverage: expected a share of at most 1 (100%), found 95",
    ),
    "a share with another sign": (
        GOOD + "verify_reads: 5 per cent\n",
        ":11:1: verify_reads: expected a share such as 0.95 or 95%, found '5 per cent'; true is all, false none",
    ),
    "parts smaller than S3 takes": (
        GOOD.replace("s3: {", "s3: {multipart_threshold: 8MiB, multipart_chunksize: 1MiB, "),
        ":4:33: s3.multipart_chunksize: expected at least 5MiB, found '1MiB'",
    ),
    "a heartbeat of a minute and more": (
        GOOD + "distributed: {heartbeat_interval: 2m}\n",
        ":11:15: distributed.heartbeat_interval: expected at most 60s, found '2m'",
    ),
    "more connections than there may be": (
        GOOD.replace("concurrency: 8", "concurrency: 100000"),
        ":3:1: concurrency: expected at most 65,536, found 100000",
    ),
    "a path for a target": (
        GOOD.replace("s3://bench-bucket/run/", "/mnt/test/"),
        ":1:1: expected a URI such as s3://bucket/prefix/ or file:///path/, found '/mnt/test/'; write file:///mnt/test/",
    ),
    "another scheme": (
        GOOD.replace("s3://", "hdfs://"),
        ":1:1: scheme hdfs:// is not supported (s3://, file://, direct://, az:// and gs:// are)",
    ),
    "a bucket in capitals": (
        GOOD.replace("bench-bucket", "BenchBucket"),
        ":1:1: 'BenchBucket' cannot be the name of a bucket (3 to 63 lower-case letters, digits, '.' and '-')",
    ),
    "a target with two slashes only": (
        changed(target="file://mnt/test/", s3=None),
        ":1:1: a file target needs an absolute path such as file:///mnt/test/, found 'file://mnt/test/'",
    ),
    "an endpoint without http": (
        GOOD.replace("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ":4:6: expected http://host:port or https://host, found '127.0.0.1:9000'; write http://127.0.0.1:9000",
    ),
    "an endpoint with a password": (
        GOOD.replace("http://127.0.0.1", "http://admin:hunter2@127.0.0.1"),
        (":4:6: a URL has no user, password, query or fragment; credentials come from the environment, s3.profile or s3.credentials_file"),
    ),
    "a port that is none": (
        GOOD.replace(":9000", ":90000"),
        ":4:6: expected http://host:port or https://host, found 'http://127.0.0.1:90000'",
    ),
    "two kinds of targets": (
        GOOD.replace("path: new/", 'path: "file:///tmp/new/"'),
        ":1:1: one run has one kind of target; found file and s3: give each a workload file of its own",
    ),
    "no target": (
        changed(target=None),
        ":7:5: 'data/' is relative, but there is no target; set target, or write whole URIs",
    ),
    "a secret in the file": (
        GOOD.replace("s3: {", "s3: {secret_access_key: abc, "),
        (
            ":4:6: secret_access_key: no secrets in workload files; use the environment (AWS_ACCESS_KEY_ID, "
            "AZURE_STORAGE_KEY, GOOGLE_APPLICATION_CREDENTIALS ...), s3.profile or s3.credentials_file"
        ),
    ),
    "a key twice": (
        GOOD + "concurrency: 16\n",
        ":11:1: key 'concurrency' is given twice, first in line 3; remove one of them",
    ),
    "a key twice in a stage": (
        GOOD + "stages: [{name: a, type: execute, name: b}]\n",
        ":11:35: key 'name' is given twice, first in line 11; remove one of them",
    ),
    "a tab": (
        GOOD.replace("  ensure_objects", "\tensure_objects"),
        ":6:1: not valid YAML: a tab at the beginning of a line; indent with spaces",
    ),
    "a quote that is not closed": (
        GOOD.replace('"http://127.0.0.1:9000"', '"http://127.0.0.1:9000'),
        ":4:20: not valid YAML: this quote is not closed; add one where the text ends",
    ),
    "a quote that is not closed, single": (
        GOOD + "name: 'first\n",
        ":11:7: not valid YAML: this quote is not closed; add one where the text ends",
    ),
    "a bracket that is not closed": (
        GOOD.replace("weight: 70}", "weight: 70"),
        ":10:5: not valid YAML: a comma is missing, or a { is not closed with } (since line 9)",
    ),
    "no space after a colon": (
        GOOD.replace("duration: 30s", "duration:30s"),
        ":2:1: not valid YAML: a line that is no key with its value; write key: value, with a space after the colon",
    ),
    "an entry that is not indented alike": (
        GOOD.replace("  - {op: put", "   - {op: put"),
        ":10:4: not valid YAML: this line is not indented as the entries that it belongs to (since line 9)",
    ),
    "a key that is not indented alike": (
        GOOD.replace("  ensure_objects:", "   ensure_objects:").replace("prepare:", "prepare:\n  cleanup: true"),
        (":7:18: not valid YAML: a colon makes no key here; put the value in quotes, or indent the line as its neighbours"),
    ),
    "a colon within a value": (
        GOOD + "name: a: b\n",
        (":11:8: not valid YAML: a colon makes no key here; put the value in quotes, or indent the line as its neighbours"),
    ),
    "an asterisk that is not quoted": (
        GOOD.replace("path: data/, weight: 70", "path: *, weight: 70"),
        ":9:21: not valid YAML: a * is the beginning of an alias; put the value in quotes",
    ),
    "a percent sign at the beginning": (
        GOOD + "verify_reads: %5\n",
        ":11:15: not valid YAML: a value cannot begin with this character; put the value in quotes",
    ),
    "an alias of nothing": (
        GOOD + "seed: *none\n",
        ":11:7: not valid YAML: an alias (*) of nothing; its anchor (&) must come before it",
    ),
    "aliases without end": (
        "workload: &a [*a, *a]\n",
        ":1:11: an alias (*) within what it stands for has no end; remove it",
    ),
    "a merge of a list": (
        GOOD + "<<: [5, 6]\n",
        (
            ":11:6: << takes the keys of other mappings: <<: *name, or a list of those\n"
            ":11:9: << takes the keys of other mappings: <<: *name, or a list of those"
        ),
    ),
    "a merge of a number": (
        GOOD.replace("{op: put,", "{<<: 5, op: put,"),
        ":10:10: << takes the keys of other mappings: <<: *name, or a list of those",
    ),
    "brackets too deep": (
        "workload: " + "[" * 500,
        ": not valid YAML: brackets within brackets without end",
    ),
    "two documents": (
        GOOD + "---\n" + GOOD,
        ":11:1: not valid YAML: a second document; a workload file is one: remove the --- and what follows",
    ),
    "a list at the top": (
        "- target: s3://bench-bucket/\n",
        ":1: expected a mapping of keys such as target, duration, workload; found a list",
    ),
    "an empty file": (
        "# nothing yet\n",
        ":1: expected a mapping of keys such as target, duration, workload; found nothing",
    ),
    "JSON with a comma too many": (
        '{"target": "s3://bench-bucket/",,}\n',
        ":1:33: not valid YAML: a value is missing here",
    ),
    "a variable that is not set": (
        GOOD.replace("bench-bucket", "${BUCKET}"),
        ":1:1: environment variable BUCKET is not set; set it, or give a default: ${BUCKET:-default}",
    ),
    "a variable without quotes within braces": (
        GOOD.replace("weight: 70", "weight: ${WEIGHT}"),
        ':9:37: not valid YAML: within { } and [ ] a variable is in quotes: "${NAME}"',
    ),
    "a variable in the shell's other form": (
        GOOD.replace("30s", "${TIME-30s}"),
        ":2:1: '${TIME-30s}' is no variable; write ${NAME} or ${NAME:-default}, and $${ where ${ itself is meant",
    ),
    "a variable that is not closed": (
        GOOD.replace("30s", "${TIME"),
        ":2:1: '${TIME' is no variable; write ${NAME} or ${NAME:-default}, and $${ where ${ itself is meant",
    ),
    "a variable with words for a number": (
        GOOD.replace("concurrency: 8", "concurrency: ${N:-many}"),
        ":3:1: concurrency: expected a whole number, found 'many' (${N:-many} in the file)",
    ),
    "two stages of one name": (
        GOOD + "stages:\n- {name: a, type: prepare}\n- {name: a, type: execute}\n",
        ":13:4: two stages are named 'a'; results are kept by name: choose another",
    ),
    "two stages of one order": (
        GOOD + "stages:\n- {name: a, type: prepare, order: 1}\n- {name: b, type: execute, order: 1}\n",
        ":13:28: stages 'a' and 'b' both have order 1; which one is first?",
    ),
    "reads after the cleanup": (
        GOOD + "stages:\n- {name: a, type: prepare}\n- {name: b, type: cleanup}\n- {name: c, type: execute}\n",
        ":14:3: nothing is left to read after the cleanup stage 'b'; give 'c' a smaller order",
    ),
    "reads before the prepare": (
        GOOD + "stages:\n- {name: a, type: execute}\n- {name: b, type: prepare}\n",
        ":12:3: what stage 'a' is to read is prepared after it; give 'b' a smaller order",
    ),
    "a prepare for a time": (
        GOOD + "stages: [{name: a, type: prepare, duration: 5s}]\n",
        ":11:35: a prepare stage ends when its work is done; it has no duration: remove it",
    ),
    "a key beside config and below it": (
        GOOD + "stages: [{name: a, type: execute, duration: 5s, config: {duration: 6s}}]\n",
        ":11:10: stages.0: duration is given both beside config and under it; remove one of them",
    ),
    "stages in two places": (
        GOOD + "stages: [{name: a, type: prepare}]\ndistributed: {stages: [{name: b, type: prepare}]}\n",
        ":11:1: stages is given both at the top and under distributed; give one of them",
    ),
    "a warm-up that is all": (
        GOOD + "warmup_period: 30s\n",
        ":11:1: warmup_period (30 s) leaves nothing of stage 'execute' (30 s); shorten it, or raise duration",
    ),
    "steady after the end": (
        GOOD + "steady: true\n",
        (
            ":11:1: stage 'execute' is not steady before 60 s (warm-up, then window or min_duration), and its duration is "
            "30 s; raise duration, which is the upper limit"
        ),
    ),
    "more agents needed than there are": (
        GOOD + "distributed: {failure_policy: best_effort, min_agents_required: 4}\n",
        ":11:44: min_agents_required is 4, but there are 3 agents; lower it, or add hosts",
    ),
    "agents needed under a policy that needs all": (
        GOOD + "distributed: {min_agents_required: 2}\n",
        (
            ":11:15: min_agents_required has no effect with failure_policy retry: it needs every agent; use failure_policy:"
            " best_effort, or remove it"
        ),
    ),
    "attempts under a policy that has none": (
        GOOD + "distributed: {failure_policy: fail_fast, agent_retry_attempts: 3}\n",
        ":11:42: agent_retry_attempts contradicts failure_policy fail_fast; use failure_policy: retry",
    ),
    "a loss of the controller that is nothing": (
        GOOD + "distributed: {on_controller_loss: wait}\n",
        ":11:15: distributed.on_controller_loss: expected continue, stop or 'stop_after: 10m', found 'wait'",
    ),
    "a time after a loss that is none": (
        GOOD + 'distributed: {on_controller_loss: "stop_after: soon"}\n',
        ":11:15: on_controller_loss: expected a duration such as 90, 60s, 5m or 2h, found 'soon'",
    ),
    "an agent that the inventory does not have": (
        GOOD + "distributed:\n  agents:\n  - {id: h1}\n  - {id: h9.example.net}\n",
        (
            ":14:5: distributed.agents names h9.example.net, which is no host of the inventory (h1, h2, h3). Name agents as"
            " the inventory does"
        ),
    ),
    "an agent with a typo": (
        GOOD + "distributed: {agents: [{address: 192.0.2.11}]}\n",
        (":11:24: distributed.agents names 192.0.2.11, which is no host of the inventory (h1, h2, h3). Did you mean '192.0.2.1'?"),
    ),
    "an agent twice": (
        GOOD + 'distributed: {agents: [{id: h1}, {address: "192.0.2.1:7761"}]}\n',
        ":11:34: distributed.agents names host h1 twice. Remove one of them",
    ),
    "an agent without a name": (
        GOOD + "distributed: {agents: [{multi_endpoint: {endpoints: [http://a]}}]}\n",
        ":11:24: distributed.agents.0: an agent needs id or address: the name of a host in the inventory",
    ),
    "a put without a size": (
        GOOD.replace("weight: 30, size_spec: 4KiB", "weight: 30"),
        ":10:5: put needs the size of the objects; set size_spec, for example size_spec: 4KiB",
    ),
    "a get with a size": (
        GOOD.replace("weight: 70", "weight: 70, size_spec: 4KiB"),
        ":9:40: a size has no meaning for get; it belongs to put, and to prepare.ensure_objects",
    ),
    "a get of nothing": (
        GOOD.replace("path: data/, weight: 70", "path: daat/, weight: 70"),
        (
            ":9:15: get 'daat/': no objects are prepared there (prepare.ensure_objects has: s3://bench-bucket/run/data/); "
            "add an entry for it"
        ),
    ),
    "all weights 0": (
        GOOD.replace("weight: 70", "weight: 0").replace("weight: 30", "weight: 0"),
        ":8:1: stage 'execute' has nothing to execute: workload is empty or all weights are 0",
    ),
    "a negative weight": (
        GOOD.replace("weight: 70", "weight: -1"),
        ":9:28: workload.0.weight: expected at least 0, found -1",
    ),
    "directories on S3": (
        GOOD.replace("op: put, path: new/, weight: 30, size_spec: 4KiB", "op: mkdir, path: new/, weight: 30"),
        (":10:6: mkdir has no meaning for s3:// targets: object storage has no directories; put or delete objects instead"),
    ),
    "several at once": (
        GOOD.replace("30s", "30 x").replace("concurrency: 8", "concurrency: 0").replace("op: get", "op: fetch"),
        (
            ":2:1: duration: expected a duration such as 90, 60s, 5m or 2h, found '30 x'\n"
            ":3:1: concurrency: expected at least 1, found 0\n"
            ":9:6: workload.0.op: expected 'get', 'put', 'list', 'stat', 'delete', 'copy', 'mkdir' or 'rmdir', found "
            "'fetch'; did you mean 'get'?"
        ),
    ),
}
"""Name: (file, message without the name of the file)."""


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_message(name: str, tmp_path: Path) -> None:
    text, expected = WHOLE[name]
    with pytest.raises(Sai3sshError) as caught:
        compiled(text, tmp_path)
    assert str(caught.value).replace(f"{tmp_path}/w.yml", "") == expected


def test_messages_are_for_people() -> None:
    """No words of a library, and no message that goes on for ever."""
    for _, message in WHOLE.values():
        for line in message.splitlines():
            assert not re.search(r"Input should|Value error|pydantic|scalar|block end|token|mapping values|stream|<class", line), line
            assert len(line) < 280, line


def test_the_schema_for_editors_rejects_those_that_it_can_know_of() -> None:
    """What it does not know of is compared, counted, or in the environment or the inventory."""
    rejected = sum(bool(errors(text)) for text, _ in WHOLE.values())
    assert rejected >= len(WHOLE) / 2
