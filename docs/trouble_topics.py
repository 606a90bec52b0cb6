"""What to do about what the code says: topics, and in each the cases whose sentences have the same answer."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """Sentences with the same thing to do about them."""

    title: str
    todo: str
    said: str
    """A pattern: what it finds in a sentence makes it one of these."""

    def has(self, sentence: str) -> bool:
        """Whether the sentence is one of these."""
        return re.search(self.said, sentence, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Topic:
    """One section: what to do about which sentences, and whose sentences belong to it."""

    title: str
    advice: str
    modules: str
    """Names of modules, by spaces; a name that ends in `*` stands for all that begin so."""
    cases: tuple[Case, ...] = ()
    """The first that has a sentence gets it."""

    def has(self, module: str) -> bool:
        """Whether the module's sentences belong here."""
        return any(module.startswith(m[:-1]) if m.endswith("*") else module == m for m in self.modules.split())


TOPICS = (
    Topic(
        "It does not start",
        "What keeps a task or a command from beginning.\n",
        """bootstrap pip_calls tasks task_context media_task earlier_runs haven_vlm_connector
        command_line exit_codes stash_wire stash_log selection task_options""",
        (
            Case(
                "Python and its packages",
                "The message names the command to run by hand. Stash's Docker image has Python and pip; a Python of "
                "your own is "
                "named in Settings → System → Python executable path. [Platforms](platforms.md) says what works where.",
                r"package|\bpip\b|PythonDepManager|Python 3\.11|ready-made|environments|disk is full",
            ),
            Case(
                "Nothing to do",
                "The trigger tag is on nothing. Put `VLM_TagMe` on a scene, and start the task again.",
                r"nothing to do|did not exist yet",
            ),
            Case(
                "A command that is wrong",
                "Nothing was done. `python3 haven_vlm_connector.py --help` has examples; [the command "
                "line](command-line.md) "
                "explains them.",
                r"--|FOLDER-IN-STASH|go together|goes with|numbers are needed|is needed|^kind|args|no task|"
                r"try: python|arguments of "
                r"the task|stash has no (tag|studio)|there is no such",
            ),
            Case(
                "Standard input",
                "The file was started by hand, or by something that is not Stash. As a command it needs a mode and "
                "`--stash`.",
                r"standard input",
            ),
            Case(
                "It was stopped, or is to be tried again",
                "Start it again: what was answered is kept, and nothing is asked twice.",
                r"stopped|begun|try again",
            ),
            Case(
                "A mistake of the connector",
                "The log has the details; please report it with them. The next run goes on where this one ended.",
                r"unexpected error|mistake of its own|ended by an error|message could not be written",
            ),
        ),
    ),
    Topic(
        "Settings",
        """\
A mistake is named with its key and the place it came from; all of them at once. The places, the later one winning:
`haven_vlm_config.py`, `haven_vlm_config.yaml`, Stash's settings page, the arguments of a task. All keys:
[settings](settings.md).
""",
        "settings* setting_* haven_vlm_config haven_vlm_utility proposal* vocabulary*",
        (
            Case(
                "The tags to look for",
                "They stand in `tag_list`, on the settings page or in the YAML file, or below the tag that "
                "`tag_parent` names; "
                "[writing good tags](tags.md).",
                r"tag_list|tag_parent|exclusive_groups|implications|tags below|not looked for|two purposes",
            ),
            Case(
                "Endpoints",
                "One line each: the address up to `/v1`, then `weight=5` and the like; several with semicolons "
                "between them.",
                r"endpoints|address|api_key|environment variable|price|addresses",
            ),
            Case(
                "Lengths of time and numbers",
                "A number of seconds, or text such as `12s`, `1m30s`, or `5%` of the video.",
                r"length|seconds|share|whole number|a number is|0\.1|1%|days",
            ),
            Case(
                "The YAML file",
                "Mend the file where the message points; text with `:` or `#` in it needs quotes. What the connector "
                "writes "
                "into it keeps a copy of the file before.",
                r"quotes|cannot be (read|written|changed)|stands twice|expected keys|HAVEN_VLM_CONFIG|a (list|"
                r"mapping) is|"
                r"no such (key|setting)|did you mean",
            ),
        ),
    ),
    Topic(
        "A model server cannot be reached",
        "*Check Endpoints* tries each server as a run would, and says which of these it is.\n",
        "endpoint_transport endpoint_troubles endpoint_watch privacy outage spending* budgets*",
        (
            Case(
                "A limit of its own",
                "Limits of an endpoint (questions, tokens, money) are yours: raise them in its settings, or wait for "
                "the day named.",
                r"used up|midnight|new day|in the next run|more questions",
            ),
            Case(
                "Certificates and TLS",
                "`https://` for a server with TLS, `http://` for one without; a server of your own with a "
                "certificate of its own "
                "needs `verify_tls: false` on that endpoint.",
                r"certificate|TLS|https|cannot be verified|speak HTTP",
            ),
            Case(
                "Outside the local network",
                "See [privacy](privacy.md); `allow_remote: true` on that endpoint if you want it.",
                r"local network|allow_remote|what must stay local|nothing was sent|your network",
            ),
            Case(
                "The address or the name is wrong",
                "Write the address of the machine in numbers, with the port the server says it listens at, and `/v1` "
                "behind it.",
                r"base_url|name .* (resolved|looked up)|not valid|not an address",
            ),
            Case(
                "Nobody answers",
                "The server is not started, listens on its own machine only (LM Studio: *Serve on Local Network*; "
                "others: host "
                "`0.0.0.0`), the port is another one, or a firewall is in between. When Stash runs in Docker, "
                "`localhost` is the "
                "container: use the address of the machine, or `host.docker.internal`.",
                r"nobody answers|start the model server|no connection|closed the connection|unknown peer",
            ),
            Case(
                "It breaks off, or takes too long",
                "Look into the server's log: it may be out of memory, or still loading. A slow one needs a larger "
                "`timeout`, or a "
                "smaller `max_concurrent`.",
                r"broke|breaks off|ended in the middle|whole answer|that slow|nothing was heard|getting ready|"
                r"server's log|not "
                r"answer well|larger than",
            ),
            Case(
                "No endpoint is left",
                "The run waits for `outage_patience`, then ends; answers and marks stay. Start it again when a "
                "server is back.",
                r"No endpoint|waiting for|answer again|next try",
            ),
        ),
    ),
    Topic(
        "A model server answers, but not well",
        "Scenes with too few usable answers are not written and keep their mark: nothing wrong gets into Stash.\n",
        """endpoint endpoint_faults chat capability model_choice server_survey replies multiplexer pool_member settling
        resilience scheduling stations confidence checking endpoint_check pool_statistics judging several""",
        (
            Case(
                "It does not see pictures",
                "A text model is loaded, or (llama.cpp) the `--mmproj` file is missing.",
                r"sees? pictures|vision model|takes no pictures|colour|mmproj",
            ),
            Case(
                "It thinks instead of answering",
                "The model thinks before it answers, which takes all its tokens or much time. Choose one that does "
                "not, or switch "
                "thinking off in the server.",
                r"think",
            ),
            Case(
                "Context, size and number of questions",
                "Give the model at least 4,096 tokens for each parallel question, or shorten definitions; make "
                "pictures smaller with "
                "`image_max_side`; lower `max_concurrent`.",
                r"context|pictures smaller|max_concurrent|so many pictures|at once|too large",
            ),
            Case(
                "Keys and logins",
                "Copy the key anew, without spaces around it, into `api_key`, or its variable's name into "
                "`api_key_env`. Stash's own "
                "key is in Settings → Security.",
                r"\bkey\b|api_key|login|credit|account",
            ),
            Case(
                "The wrong address, or no model",
                "The address ends in `/v1`; `model` is one of those the server offers.",
                r"base_url|`model`|no model|several models|sends? on|mean “|right place",
            ),
            Case(
                "Answers that cannot be used",
                "The model is too weak for the list of tags, or its chat template is wrong. Fewer tags and shorter "
                "definitions help, "
                "and so does another model.",
                r"the answer|an answer|empty answer|declin|filter|JSON|plain list|given up|refuses every|same failure",
            ),
            Case(
                "An endpoint that gets no questions",
                "It is tried again by itself, and the others do its work meanwhile. The reason stands behind the "
                "colon.",
                r"endpoint “",
            ),
            Case(
                "What Check Endpoints tells",
                "Each problem comes with its fix beside it; the rest is for your information.",
                r".",
            ),
        ),
    ),
    Topic(
        "Stash",
        "What a run could not write is written by the next one; what you did meanwhile counts.\n",
        """haven_media_handler stash_* applying undoing undo_task undo_plan marks ownership together batch_writing
        fetching rebuild*""",
        (
            Case(
                "The login",
                "Stash's login for tasks ends after an hour. Generate an API key (Settings → Security → "
                "Authentication); a task "
                "finds it by itself, a command wants it in a variable or a file.",
                r"login|API key|SessionCookie|user names|403|401",
            ),
            Case(
                "Stash cannot be reached",
                "Is it running, and is that its address? Nothing is lost: start again when it is there.",
                r"nobody answers|no (secure )?connection|is that Stash's|not an address|busy or gone|broke|"
                r"connection .* failed|"
                r"certificate|server_connection|leads elsewhere|answered HTTP|took longer|cannot ask",
            ),
            Case(
                "Stash is busy",
                "A scan, a generate task or a backup. The connector waits and tries again.",
                r"busy|another run is (writing|working)",
            ),
            Case(
                "A tag's name",
                "Rename one of the two tags in Stash, or choose another name in the settings.",
                r"tag “|one tag|new tag|as an alias|a tag needs",
            ),
            Case(
                "It is gone from Stash",
                "You changed or deleted it while the run went on. That is fine; yours counts.",
                r"any more|no longer|gone|no such|not exist|keeps changing|stays",
            ),
            Case(
                "The version",
                "Update Stash.",
                r"please update",
            ),
        ),
    ),
    Topic(
        "A file cannot be read",
        """\
A scene or image whose own file is at fault gets `VLM_Errored` and keeps `VLM_TagMe`; mend the file, take `VLM_Errored`
off, and run again. What is merely out of reach keeps its mark and gets no blame.
""",
        """media opening container decoding reading location framing frame_image picture ffmpeg_cli crew videos images
        galleries image_* media_access stills still_reading zips haven_vlm_engine video_look vlm_engine* likeness
        tone""",
        (
            Case(
                "vlm-engine",
                "See [vlm-engine](vlm-engine.md): what it needs, and what it cannot do. `engine: built-in` needs "
                "none of it.",
                r"vlm-engine",
            ),
            Case(
                "It is not on this machine",
                "This machine knows the folder under another name: set `path_mutation` (or `--map`). Without it the "
                "file is read "
                "through Stash, which works but is slower.",
                r"path_mutation|on this machine|is not there|wants a login|not allowed|cannot be reached|through Stash",
            ),
            Case(
                "This account may not read it",
                "Give the user that runs Stash (or the command) the right to read the folder.",
                r"permission denied",
            ),
            Case(
                "The file is damaged or not finished",
                "Only the original helps: copy or download it again. Parts that can be read are used.",
                r"damaged|cut off|moov|zeros|0 bytes|broke off|no more (data|pictures)|decoded|ended with code|"
                r"is empty",
            ),
            Case(
                "It is in a format that cannot be read here",
                "Convert it. Of an image the connector takes Stash's thumbnail, when there is one.",
                r"format|raw picture|cannot be read here|playlist|not a video|no video|holds text|encrypted|packed|"
                r"a drawing|thumbnail"
                r"|is a folder|no width",
            ),
            Case(
                "The drive or the network hangs",
                "The run goes on with other files; look after the drive.",
                r"hangs|in time|no data|has done nothing|left behind",
            ),
            Case(
                "Too few answers",
                "It keeps its mark, and nothing was written. The reasons stand in brackets; `min_coverage` says how "
                "much is enough.",
                r"analysed|coverage",
            ),
            Case(
                "It changed while the run went on",
                "That is fine; yours counts.",
                r"no longer|in the meantime|another run",
            ),
            Case(
                "A mistake of the connector",
                "The log has the details; please report it with them. The other files are worked on all the same.",
                r"unexpected error",
            ),
        ),
    ),
    Topic(
        "Ledger, reports and disk",
        "Where they lie says `data_dir`; by default `haven_vlm` in Stash's configuration folder.\n",
        "journal* run_lock own_thread files reports report_* progress lanes live page_data page_operations live_*",
        (
            Case(
                "The disk is full, or cannot be written to",
                "Free some space, or give the user that runs Stash the right to write there, and run again; "
                "everything answered so "
                "far is kept.",
                r"is full|not failing|read-only|written to|cannot be (written|kept|stored|made)|no lock|"
                r"may be written|check the disk",
            ),
            Case(
                "The ledger was damaged",
                "It was set aside and a new one begun, with everything that could be read. What is not in it any "
                "more counts as "
                "yours and is never removed.",
                r"damaged|set aside|carried over|cut off|not a database|could be read|in the vocabulary",
            ),
            Case(
                "The ledger cannot be used",
                "Another program has it open, or it lies on a network share. Set `data_dir` to a folder on a local "
                "disk.",
                r"shared memory|locked|ledger|another process|newer version|another program",
            ),
        ),
    ),
    Topic(
        "Learning from corrections",
        """\
The tasks **Collect Incorrect Markers**, **Find Marker Settings** and **Evaluate** need something to learn from: scenes
that were tagged and then corrected by hand.
""",
        """corrections* collect* flags incorrect* tuning* learning* evidence* settings_file* marker_settings* evaluat*
        fitting* example* few_shot* review* truth*""",
        (
            Case(
                "There is too little to learn from",
                "Go through the markers of more scenes: confirm, move, delete, add. [Learning](learning.md) says how "
                "much is enough.",
                r"too (few|little)|nothing|not enough|fewer than|no other settings|no examples",
            ),
            Case(
                "Another run is at it",
                "Start again when it is done.",
                r"another run|working on",
            ),
            Case(
                "The scene has changed meanwhile",
                "Load the page anew; what stands in Stash counts.",
                r"any more|no longer|already|anew|gone",
            ),
        ),
    ),
    Topic(
        "What the page in Stash says",
        "",
        "haven-*",
        (
            Case(
                "It cannot do what was asked",
                "Reload the page. If that does not help, see whether Stash itself answers, and its log (Settings → "
                "Logs).",
                r"Stash (does|cannot|wants|answered)|the plugin|failed|without a message|no reason|not saved",
            ),
            Case(
                "A run that was stopped",
                "Start it again: what was answered is kept.",
                r"stopped|ended early|no word",
            ),
        ),
    ),
)

OTHER = Topic("Everything else", "What is said by parts that are new and have no topic yet.\n", "")
