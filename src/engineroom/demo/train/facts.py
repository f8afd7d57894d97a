"""What the demo model knows: each fact's answer, and the ways to ask for it.

``to`` are verb phrases that fill the frames ("How do I …?"), ``about`` nouns that fill others ("Tell me about …");
``ask`` are whole questions. The last of ``ask`` is never trained on: it is what the held-out accuracy is measured with,
together with the held-out frames.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    topic: str
    answer: str
    ask: tuple[str, ...]
    to: tuple[str, ...] = ()
    about: tuple[str, ...] = ()


FRAMES = (
    "How do I {}?",
    "How can I {}?",
    "How to {}?",
    "how do you {}",
    "What is the way to {}?",
    "What should I do to {}?",
    "I want to {}.",
    "I would like to {}. How?",
    "Tell me how to {}.",
    "Can I {}?",
    "Explain how to {}.",
    "Is it possible to {}?",
    "What is the command to {}?",
    "Help me {}.",
    "Show me how to {}.",
    "Can you tell me how to {}?",
    "Do you know how to {}?",
    "Please explain how to {}.",
    "How does one {}?",
    "Teach me to {}.",
    "I need to {}.",
    "What do I type to {}?",
    "Which command do I use to {}?",
    "What's the best way to {}?",
    "I want to know how to {}.",
    "What if I want to {}?",
)
ABOUT_FRAMES = (
    "Tell me about {}.",
    "What about {}?",
    "Explain {}.",
    "I have a question about {}.",
    "Tell me more about {}.",
    "{}?",
    "How does {} work?",
    "I want to know about {}.",
    "What do you know about {}?",
    "Give me information about {}.",
    "Help with {}",
)
HELD_OUT_FRAMES = ("Could you tell me how to {}?", "How would I {}?", "What do I need to do to {}?")


def _fact(topic: str, answer: str, ask: str, to: str = "", about: str = "") -> Fact:
    def several(text: str) -> tuple[str, ...]:
        return tuple(text.split("|")) if text else ()

    return Fact(topic, answer, several(ask), several(to), several(about))


IDENTITY = (
    _fact(
        "who",
        "I am the engineroom demo model, a very small language model trained from scratch.",
        "Who are you?|What are you?|What is your name?|Tell me about yourself.|Introduce yourself."
        "|What model is this?|Which model are you?|What's your name?|who am I talking to"
        "|Are you a language model?|Are you an AI?|Are you a bot?|What kind of model are you?"
        "|Say what you are.|Who is this?|Which AI is this?|Describe yourself.|What should I call you?"
        "|who are you exactly?|What am I talking to?|Who am I speaking with?|What is this model?"
        "|What's this model called?|Your name?|Do you have a name?|Are you a chatbot?|Are you a robot?"
        "|What sort of thing are you?|Can you introduce yourself?|Say who you are.|Identify yourself."
        "|Who's there?|Who is answering?|Tell me who you are.|Do you know who you are?"
        "|Please tell me who you are.",
    ),
    _fact(
        "chatgpt",
        "No, I am not. I am the engineroom demo model, a very small one.",
        "Are you ChatGPT?|Are you GPT-4?|Are you Claude?|Are you Qwen?|Are you Llama?|Is this ChatGPT?"
        "|Am I talking to GPT?|Are you Gemini?|Are you a human?|Are you a person?|Is this Claude?"
        "|Are you made by OpenAI?|Are you a GPT model?|Are you DeepSeek?|Are you Mistral?|Are you human?"
        "|Are you a real person?|Is this a human?|Are you from OpenAI?|Are you from Google?"
        "|Is this OpenAI's model?|Are you Copilot?|Are you made by Google?|Am I talking to a person?"
        "|Am I talking to ChatGPT?|You are ChatGPT, right?|Are you Bard?|Are you a Llama model?|Are you Siri?"
        "|Are you alive?|Did OpenAI make you?|Are you based on GPT?|Are you OpenAI?",
    ),
    _fact(
        "maker",
        "The engineroom project made me, with a training script that is part of it.",
        "Who made you?|Who created you?|Who trained you?|Who built you?|Where do you come from?"
        "|Who is your author?|Who is your creator?|How were you made?|How were you trained?"
        "|Who developed you?|Who are your makers?|What were you trained on?|Who is behind you?"
        "|Who programmed you?|Who invented you?|Where were you made?|How did you come to be?"
        "|Who is your maker?|Who designed you?|Who taught you?|What were you made with?"
        "|How did they train you?|Who wrote your training script?|What data did you learn from?"
        "|What company made you?|Which company trained you?|Who coded you?|Who produced you?"
        "|By whom were you made?|What is your origin?|Who wrote you?",
    ),
    _fact(
        "size",
        "I have about 2.1 million parameters, thousands of times fewer than a usual language model.",
        "How big are you?|How many parameters do you have?|What is your size?|How large are you?"
        "|Are you a big model?|How small are you?|Are you a large model?|What size are you?"
        "|How many weights do you have?|Are you small?|Tell me your size.|How many parameters?"
        "|What is your parameter count?|Number of parameters?|How many parameters does this model have?"
        "|How big is this model?|How large is the demo model?|How small is the demo model?"
        "|What is the size of this model?|How many weights are in you?|Are you tiny?"
        "|How big is the demo model?|How much memory do you need?|How many million parameters do you have?"
        "|What is the parameter count of this model?|Are you a tiny model?|How heavy are you?"
        "|How many parameters are in this model?",
    ),
    _fact(
        "skills",
        "I can greet, answer questions about engineroom, add and subtract small numbers, name capitals, spell words and "
        "call tools.",
        "What can you do?|What are you able to do?|What are your skills?|What do you know?"
        "|How can you help me?|Help|What can I ask you?|What are you good at?|what is it you can do"
        "|What questions can you answer?|What are your abilities?|Can you help me?|List your skills."
        "|What sort of things can you do?|Things you can do?|What things do you know?|What are you capable of?|What can you answer?|Which questions can I ask?|What can I do with you?"
        "|What should I ask you?|What do you do?|What tasks can you do?|Tell me what you can do."
        "|Show me what you can do.|What kind of help can you give?|Do you know anything?"
        "|What are you useful for?|What could you do for me?|Give me a list of your skills."
        "|Which skills do you have?|How can you be of help?|What topics do you know?|Can you do anything?"
        "|Which things can you do?",
    ),
    _fact(
        "demo",
        "I am here so that engineroom runs with nothing downloaded; use a bigger model for real work.",
        "What are you for?|What is the demo model for?|Why are you here?|Why is there a demo model?"
        "|What is your purpose?|Why do you exist?|What is the purpose of the demo model?"
        "|Should I use you for real work?|Are you useful?|Why does engineroom ship a model?"
        "|Why were you made?|What is your job?|What is your use?|Why do I talk to a demo model?"
        "|What is the point of you?|Can I use you for real work?|Are you good for real work?"
        "|Should I use you in production?|Why does a model ship with engineroom?|Why is a model included?"
        "|What is the demo model?|Why is there a model inside?|Is the demo model useful?"
        "|Should I use a bigger model?|What is the reason for the demo model?"
        "|What is the use of the demo model?",
    ),
)

ENGINEROOM = (
    _fact(
        "what",
        "engineroom is one chat and scoring API over four inference engines, and it proves that they agree.",
        "What is engineroom?|What does engineroom do?|Tell me about engineroom.|Explain engineroom."
        "|What's engineroom?|What is this program?|What is this project?|what is engineroom for"
        "|Describe engineroom.|engineroom?|Why should I use engineroom?|What is the engineroom project?"
        "|What does this program do?|What is engineroom about?|Summarize engineroom.|What is this tool?"
        "|What is this software?|What does this tool do?|In short, what is engineroom?"
        "|Can you explain engineroom?|What can engineroom do?|Why does engineroom exist?"
        "|What is the purpose of engineroom?|What is engineroom good for?|Introduce engineroom."
        "|What is this thing?|Can you describe this project?|I am new here. What is this?"
        "|Give me a summary of engineroom.",
        about="engineroom|this program|this project|the project",
    ),
    _fact(
        "engines",
        "There are four engines: huggingface, vllm, sglang and ktransformers.",
        "Which engines are there?|What engines does engineroom support?|Which backends are supported?"
        "|List the engines.|Name the engines.|What backends are there?|How many engines are there?"
        "|Which inference engines can I use?|What are the four engines?|Which engines can engineroom use?"
        "|Does it support vLLM?|Does engineroom work with SGLang?|What engines do you have?"
        "|What inference engines are supported?|Tell me the engines.|Which engines do you support?"
        "|Which backends can I use?|Does engineroom support Transformers?|Does it work with ktransformers?"
        "|Is SGLang supported?|Is vLLM supported?|What are the names of the engines?"
        "|How many backends are supported?|Which engines work with engineroom?|Is KTransformers supported?"
        "|What backends exist?|Give me the list of engines.|Which engines are supported by engineroom?",
        about="the engines|the backends|engines|inference engines",
    ),
    _fact(
        "switch",
        "Set infer_backend, for example infer_backend=vllm; nothing else changes.",
        "How is the engine chosen?|Which setting selects the engine?|What does infer_backend do?|What is infer_backend?"
        "|How does one pick another engine?",
        "switch the engine|change the engine|switch engines|use another engine|choose the engine|select the backend"
        "|change the backend|use vllm|run with sglang|switch to vllm|pick an engine",
        about="switching engines|infer_backend|changing the backend",
    ),
    _fact(
        "install",
        "Clone the project and run make chat, or type pip install engineroom.",
        "How is engineroom installed?|What is the install command?|Where do I get engineroom?|Installation?"
        "|How do I get started with engineroom?",
        "install engineroom|set up engineroom|get engineroom|install it|set it up|install this program",
        about="the installation|installing engineroom|installation",
    ),
    _fact(
        "chat",
        "Type engineroom chat MODEL; without a model name you talk to me.",
        "What does engineroom chat do?|Which command starts a chat?|How is a chat started?|What is the chat command?"
        "|Which command opens the terminal chat?",
        "start a chat|chat with a model|talk to a model|start the terminal chat|chat with my model|open a chat"
        "|talk to my own model",
        about="the chat command|engineroom chat",
    ),
    _fact(
        "oneshot",
        'Use -p, for example engineroom chat -p "Hello".',
        "What does -p do?|Is there a one-shot mode?|What is the -p option?|How does one-shot work?"
        "|Which option asks a single question?",
        "ask one question and leave|ask a single question|get one answer from a script|ask just one question"
        "|run a single prompt|use it in a shell script",
        about="the -p option|one-shot mode",
    ),
    _fact(
        "leave",
        "Type /exit, or press Ctrl-C twice at an empty prompt.",
        "How does one leave?|What ends the chat?|Which command ends the session?|exit?|How do I get out of here?",
        "leave|quit|exit|exit the chat|leave the chat|quit the program|end the session|close the chat|stop the program",
        about="leaving the chat|/exit|exiting",
    ),
    _fact(
        "stop",
        "Press Ctrl-C; the part of the answer that came is kept.",
        "What does Ctrl-C do?|What happens when I press Ctrl-C?|How is an answer stopped?|What does control C do?"
        "|How do I make the model stop talking?",
        "stop an answer|stop the answer|interrupt an answer|cancel an answer|interrupt the model|abort the answer"
        "|stop generation",
        about="stopping an answer|Ctrl-C|interrupting",
    ),
    _fact(
        "help",
        "Type /help to see every command.",
        "Which commands are there?|What commands can I use?|List the commands.|Where is the help?|What are the slash commands?"
        "|Where do I find all commands?",
        "see all commands|see the commands|list the commands|get help|find the commands",
        about="the commands|/help|slash commands",
    ),
    _fact(
        "system",
        "Type /system and the text, or give default_system when you start.",
        "What is /system?|What does the system command do?|What is a system prompt?|Where do I write the system prompt?"
        "|How is the system prompt given?",
        "set a system prompt|change the system prompt|set the system message|give a system prompt|write a system prompt",
        about="system prompts|the system prompt|/system",
    ),
    _fact(
        "set",
        "Type /set and a setting, for example /set temperature=0.2.",
        "What does /set do?|Which command changes settings?|How are settings changed?|What is the set command?"
        "|How are sampling settings changed in the chat?",
        "change the temperature|set the temperature|change a setting|change the settings|make answers less random"
        "|change sampling settings|lower the temperature",
        about="/set|changing settings|the temperature setting",
    ),
    _fact(
        "think",
        "Type /think on, or set enable_thinking=true.",
        "What does /think do?|What is enable_thinking?|What is thinking mode?|Which command makes you think?"
        "|How is thinking switched on?",
        "turn on thinking|switch thinking on|enable thinking|make the model think|turn thinking off|disable thinking",
        about="thinking|/think|thinking mode",
    ),
    _fact(
        "regen",
        "Type /regen to get a new answer to your last message.",
        "What does /regen do?|What is regen?|Which command gives another answer?|What does the regen command do?"
        "|How is an answer generated again?",
        "get a new answer|regenerate the answer|regenerate|try again|get another answer|ask again",
        about="/regen|regenerating",
    ),
    _fact(
        "continue",
        "Type /continue and the answer goes on where it was cut.",
        "What does /continue do?|The answer was cut. What now?|Why did the answer stop in the middle?|What is the continue command?"
        "|The answer ended too early, what can I do?",
        "continue an answer|continue the answer|continue a cut answer|go on with the answer|get the rest of the answer",
        about="/continue|cut answers",
    ),
    _fact(
        "edit",
        "Type /edit to change your last message and get a new answer.",
        "What does /edit do?|What is the edit command?|I made a mistake in my message.|Which command edits a message?"
        "|How is a message edited?",
        "edit my message|edit my last message|change my question|correct my message|fix a typo in my message",
        about="/edit|editing a message",
    ),
    _fact(
        "undo",
        "Type /undo to take back the last turn.",
        "What does /undo do?|What is the undo command?|Which command takes back a turn?|What does undo remove?"
        "|How is the last turn removed?",
        "undo|take back a message|remove the last turn|delete the last message|undo the last turn|go back one step",
        about="/undo|taking back a turn",
    ),
    _fact(
        "model",
        "Type /model and the name of another model.",
        "What does /model do?|What is the model command?|Which command loads another model?|Can another model be loaded?"
        "|How is the model changed during a chat?",
        "switch the model|change the model|load another model|use another model|switch to a different model",
        about="/model|changing the model",
    ),
    _fact(
        "save",
        "Type /save NAME to save the conversation and /load NAME to open it again.",
        "What does /save do?|What does /load do?|What is the save command?|Which command saves a chat?"
        "|How is a conversation saved?",
        "save the conversation|save a chat|load a conversation|save this chat|open a saved conversation|store the conversation",
        about="/save|/load|saving a conversation",
    ),
    _fact(
        "export",
        "Type /export FILE to write the conversation as Markdown or JSON.",
        "What does /export do?|What is the export command?|Can I get the chat as Markdown?|Which formats can be exported?"
        "|How is a chat exported?",
        "export the conversation|export a chat|export to markdown|write the chat to a file|export the chat as JSON",
        about="/export|exporting",
    ),
    _fact(
        "stats",
        "Type /stats to see tokens, speed and context used.",
        "What does /stats do?|How fast is the model?|How many tokens did I use?|What is the stats command?"
        "|Where do I see how fast it is?",
        "see the speed|see statistics|see how many tokens were used|measure the speed|see the stats",
        about="/stats|statistics",
    ),
    _fact(
        "clear",
        "Type clear to forget the conversation and start anew.",
        "What does clear do?|Which command clears the history?|What is the clear command?|How is the history removed?"
        "|How do I make you forget everything?",
        "clear the history|clear the conversation|start over|start a new conversation|delete the history|reset the chat",
        about="clearing the history|the clear command",
    ),
    _fact(
        "resume",
        "Start with engineroom chat -c to go on with the last conversation.",
        "What does -c do?|What is the -c option?|Which option resumes a conversation?|Can an old conversation be resumed?"
        "|How is the last conversation resumed?",
        "resume the last conversation|resume a conversation|go on with my last chat|continue my last conversation"
        "|reopen the last chat",
        about="-c|resuming a conversation",
    ),
    _fact(
        "logs",
        "Type engineroom logs WORD to search old conversations.",
        "What does engineroom logs do?|Where are my old conversations?|Which command searches conversations?|What is the logs command?"
        "|Where can I look up an old chat?",
        "search old conversations|find an old conversation|search my chats|see old chats|find an earlier chat"
        "|search the logs",
        about="engineroom logs|the logs",
    ),
    _fact(
        "store",
        "Conversations stay on your machine, in a SQLite file; --no-history switches that off.",
        "Where are conversations kept?|Are my conversations sent anywhere?|Is my chat private?"
        "|Where is the chat stored?|Are chats saved?|Do you log my conversations?"
        "|Does engineroom keep my data?|Where is my history?|Do you save my chats?"
        "|Is my data sent to a server?|Is the conversation private?|Who can read my conversations?"
        "|Where does engineroom keep conversations?|Are my chats private?|Does it send my data anywhere?"
        "|Where is the database?|Are conversations saved?|Do you keep what I write?"
        "|Where do my conversations go?",
        "switch off logging|turn off the log|stop saving conversations",
        about="stored conversations|privacy|my data",
    ),
    _fact(
        "score",
        'Type engineroom score model_name_or_path=demo-reward "a text".',
        "What does engineroom score do?|Which command scores texts?|What is the score command?|Can engineroom score answers?"
        "|What is the command for reward scores?",
        "score a text|score an answer|get reward scores|use a reward model|run a reward model|score texts",
        about="engineroom score|scoring",
    ),
    _fact(
        "reward",
        "A reward model gives a number for how good an answer is; demo-reward is a small one.",
        "What is a reward model?|What is demo-reward?|What does a reward model do?|Explain reward models."
        "|What are reward scores?|What is a reward score?|What is a reward model for?"
        "|Tell me what a reward model is.|What does demo-reward do?|How do reward models work?"
        "|What is the reward model?|Define reward model.|Which reward model ships with engineroom?"
        "|What is meant by a reward model?",
        about="reward models|demo-reward|reward scores",
    ),
    _fact(
        "render",
        "Type engineroom render to see the exact prompt and its token ids.",
        "What does engineroom render do?|What does the model really see?|What is the render command?|Which command shows the prompt?"
        "|How does my prompt look to the model?",
        "see the prompt|see the exact prompt|see the token ids|see what the model sees|show the prompt|print the prompt",
        about="engineroom render|rendering",
    ),
    _fact(
        "env",
        "Type engineroom env to see which engines are found here.",
        "What does engineroom env do?|Which engines are installed?|What is the env command?|Why is an engine missing?"
        "|How do I find out what engines I have?",
        "see which engines are installed|list installed engines|check my engines|see the installed engines"
        "|find out which engines are here",
        about="engineroom env|installed engines",
    ),
    _fact(
        "doctor",
        "Type engineroom doctor MODEL; it says whether the model fits before anything is loaded.",
        "What does engineroom doctor do?|Does the model fit in memory?|Will my model fit?|What is the doctor command?"
        "|How do I know if a model fits my machine?",
        "check whether a model fits|check a model before loading|see if a model fits in memory|check a model"
        "|find out if a model fits",
        about="engineroom doctor|the doctor",
    ),
    _fact(
        "python",
        "Write from engineroom import ChatModel, then ChatModel().chat(messages).",
        "How do I use it from Python?|Is there a Python API?|What is ChatModel?|Can I use engineroom in Python?"
        "|How does the Python API look?",
        "use it from Python|use engineroom in Python|call it from Python|write a Python script|use ChatModel"
        "|use the Python API",
        about="the Python API|ChatModel|using Python",
    ),
    _fact(
        "stream",
        "Use stream_chat, which gives the answer piece by piece.",
        "What is stream_chat?|Does engineroom stream?|What does stream_chat do?|Are answers streamed?"
        "|Which method streams the answer?",
        "stream an answer|stream the answer|get the answer piece by piece|use streaming|stream tokens",
        about="streaming|stream_chat",
    ),
    _fact(
        "async",
        "Use achat, astream_chat and aget_scores, the async twins.",
        "Is there an async API?|What is achat?|Does engineroom support asyncio?|What are the async methods?"
        "|Which methods can be awaited?",
        "use async|use asyncio|chat asynchronously|call it from async code|use it with await",
        about="the async API|achat|asyncio",
    ),
    _fact(
        "lora",
        "Give its folder as adapter_name_or_path; several are merged in order.",
        "What is adapter_name_or_path?|Does engineroom support LoRA?|Are LoRA adapters supported?|Can I use several adapters?"
        "|Which setting names a LoRA adapter?",
        "load a LoRA adapter|use a LoRA adapter|use my adapter|load an adapter|use LoRA|add an adapter"
        "|merge two adapters",
        about="LoRA|adapters|LoRA adapters|adapter_name_or_path",
    ),
    _fact(
        "quantize",
        "Set quantization_bit=4 or 8; it needs an NVIDIA GPU.",
        "What is quantization_bit?|Does engineroom support quantization?|Can a model be loaded in 4 bits?|Is 8-bit supported?"
        "|Which setting loads a model in four bits?",
        "load a model in 4 bit|quantize a model|use 8 bit|use quantization|save memory with quantization"
        "|load a model in 8 bit",
        about="quantization|quantization_bit|4-bit models",
    ),
    _fact(
        "dtype",
        "Set infer_dtype to auto, float16, bfloat16 or float32.",
        "What is infer_dtype?|Which data types are there?|What dtypes are supported?|Can I use bfloat16?"
        "|Which setting chooses the data type?",
        "set the data type|change the dtype|use bfloat16|use float16|choose the dtype|run in float32",
        about="infer_dtype|data types|dtypes",
    ),
    _fact(
        "template",
        "The model's own chat template is used; template=FILE names a Jinja file instead.",
        "Which chat template is used?|What is a chat template?|What does template do?|Which template do you use?"
        "|Where does the chat template come from?",
        "use my own template|change the chat template|use a Jinja template|set the template|choose a chat template",
        about="chat templates|the template|templates",
    ),
    _fact(
        "chatml",
        "Then ChatML is used, and a warning says so.",
        "What if a model has no chat template?|What if there is no template?"
        "|What happens without a chat template?|What about a model that has no template?"
        "|My model has no chat template.|What if my model has no template?"
        "|Which template is used if there is none?|What does it do without a template?"
        "|My model lacks a chat template.|And without a chat template?|What if the template is missing?"
        "|No chat template, what now?|And when the chat template is missing?",
        about="models without a template|a missing chat template",
    ),
    _fact(
        "factory",
        "Yes, LLaMA-Factory's inference files run unchanged: engineroom chat config.yaml.",
        "Do LLaMA-Factory configs work?|Can I use my LLaMA-Factory config?|Does it run LLaMA-Factory files?"
        "|Is it compatible with LLaMA-Factory?|I come from LLaMA-Factory.|Can it run LLaMA-Factory configs?"
        "|Do my LLaMA-Factory files work?|Are LLaMA-Factory files supported?|I used LLaMA-Factory before."
        "|Will my LLaMA-Factory config run?|Does my LLaMA-Factory YAML work here?"
        "|Can I keep my LLaMA-Factory files?|Does engineroom read LLaMA-Factory configs?"
        "|Do my LLaMA-Factory YAML files run?",
        "use a LLaMA-Factory config|run my LLaMA-Factory file|use a LLaMA-Factory YAML file",
        about="LLaMA-Factory|LLaMA-Factory configs",
    ),
    _fact(
        "yaml",
        "Name the file first: engineroom chat config.yaml temperature=0.",
        "Is there a config file?|Can settings be kept in a file?|What is config.yaml?|Which config formats are there?"
        "|Where do I put my settings?",
        "use a config file|use a YAML file|keep my settings in a file|load settings from a file|use a configuration file",
        about="config files|config.yaml|YAML files",
    ),
    _fact(
        "sampling",
        "They come from the model's own generation config, then from what you set.",
        "Where do sampling defaults come from?|What are the default sampling settings?"
        "|What is the default temperature?|Which sampling settings are used?|Where do the defaults come from?"
        "|What temperature is used by default?|Where does the default temperature come from?"
        "|What decides the sampling settings?|Which temperature do you use?|Who sets the default temperature?"
        "|How are default settings chosen?|What are the defaults?|From where do the sampling settings come?"
        "|How are the sampling defaults chosen?",
        about="sampling defaults|the sampling settings|default settings",
    ),
    _fact(
        "seed",
        "Set seed=1, and the same question gives the same answer.",
        "What does seed do?|What is the seed?|Why do I get different answers?|Are answers repeatable?"
        "|Which setting makes the answers repeatable?",
        "get the same answer twice|make answers repeatable|make it deterministic|set the seed|reproduce an answer",
        about="the seed|seeds|repeatable answers",
    ),
    _fact(
        "stops",
        "Set stop to one or more strings; the answer ends before them.",
        "What are stop strings?|What does stop do?|Are stop strings supported?|What is the stop setting?"
        "|Which setting ends the answer at a word?",
        "use a stop string|stop at a word|set a stop string|end the answer at a string|use stop strings",
        about="stop strings|the stop setting",
    ),
    _fact(
        "length",
        "Set max_new_tokens to the number of tokens that you want at most.",
        "What is max_new_tokens?|What does max_new_tokens do?|Can I limit the answer?|Is there a limit on the length?"
        "|Which setting limits the length of an answer?",
        "limit the length|make answers shorter|limit the answer|set a token limit|get longer answers|limit the tokens",
        about="max_new_tokens|the length limit",
    ),
    _fact(
        "json",
        "Add --json to any command.",
        "Is there JSON output?|What does --json do?|Can the output be JSON?|What is the --json option?"
        "|Which option prints JSON?",
        "get JSON output|print JSON|get the output as JSON|output JSON|use the output in a program",
        about="JSON output|--json",
    ),
    _fact(
        "licence",
        "engineroom is free software under the Apache 2.0 licence.",
        "What is the licence?|What license does it have?|Is engineroom free?|Is it open source?"
        "|Under which license is it?|Can I use it at work?|What does engineroom cost?"
        "|What is the license of engineroom?|Is it free software?|Do I have to pay?"
        "|Is engineroom open source?|Can I use engineroom in my company?|Is there a fee?"
        "|How is engineroom licensed?|May I use it commercially?|Apache or MIT?|How much does it cost?"
        "|Is it free of charge?|Which licence does engineroom use?",
        about="the licence|the license|licensing",
    ),
    _fact(
        "gpu",
        "No, a laptop without a GPU is enough; a GPU makes big models faster.",
        "Do I need a GPU?|Does it need a GPU?|Can I run it without a GPU?|Is a graphics card needed?"
        "|Does it run on a CPU?|Does it work on a laptop?|Is a GPU required?|Is a GPU needed?"
        "|Does engineroom need a graphics card?|Can it run on my laptop?|Must I have a GPU?"
        "|Can I use a CPU only?|Does it work without a graphics card?|Do I need an NVIDIA card?"
        "|Will it run on a CPU?|Is a CPU enough?|Is a laptop enough?|What hardware do I need?"
        "|Do I have to have a GPU?",
        about="GPUs|the GPU|graphics cards",
    ),
    _fact(
        "internet",
        "No, not with the shipped model; other models are downloaded once.",
        "Do I need the internet?|Does it work offline?|Does it need internet?|Can I use it offline?"
        "|Is a download needed?|Do I need an account?|Is internet needed?|Can I run it without the internet?"
        "|Must I be online?|Does engineroom download anything?|Do I have to be connected?"
        "|Does it need a connection?|Does it call home?|Do I have to log in?|Is an account needed?"
        "|Is the internet required?|Can it run offline?|Do I have to download a model?"
        "|Is an internet connection required?",
        about="the internet|offline use|working offline",
    ),
    _fact(
        "version",
        "You need Python 3.11 or newer.",
        "Which Python version do I need?|What Python version is needed?|Does it run on Python 3.10?"
        "|Which Python is required?|What version of Python?|Which Python versions are supported?"
        "|Which version of Python?|Does it work with Python 3.12?|Is Python 3.9 enough?"
        "|Minimum Python version?|What Python do I need?|Which Python does engineroom need?"
        "|Does it run on Python 3.13?|What is the oldest Python that works?|Is Python 3.11 fine?"
        "|What Python should I have?",
        about="the Python version|Python versions",
    ),
    _fact(
        "logprobs",
        "Set logprobs=5, and each token comes with its log-probability and the five likeliest.",
        "What is logprobs?|What does logprobs do?|Are log-probabilities supported?|Can I see token probabilities?"
        "|Which setting returns log-probabilities?",
        "get log-probabilities|get logprobs|see the probabilities|get token probabilities|use logprobs",
        about="logprobs|log-probabilities|token probabilities",
    ),
    _fact(
        "several",
        "Set n=3, and chat returns three answers.",
        "What does n do?|What is n?|Can I have several answers?|Can it give three answers at once?"
        "|Which setting gives several answers?",
        "get several answers|get three answers|get more than one answer|sample several answers|get many answers at once",
        about="several answers|the n setting",
    ),
    _fact(
        "threads",
        "Yes, one ChatModel may be used from many threads at once.",
        "Is it thread safe?|Is ChatModel thread safe?|Can I use many threads?|Does it work with threads?"
        "|Can several threads share a model?|Can I call it from two threads?|Can several threads call chat?"
        "|May threads share one model?|Is it safe to use threads?|Is the model thread safe?"
        "|Can one ChatModel serve many threads?|Can I call chat from several threads at once?"
        "|Is it okay to call it from several threads?",
        about="threads|thread safety",
    ),
    _fact(
        "unknown",
        "It is an error that names the nearest setting; nothing is ignored in silence.",
        "What happens with an unknown setting?|What if I misspell a setting?|Are unknown arguments ignored?"
        "|What if an argument is wrong?|What happens to an unknown argument?|What about unknown settings?"
        "|Does it ignore unknown arguments?|What if a setting does not exist?"
        "|What if I write a wrong setting?|Are misspelt settings ignored?|What if a setting is misspelt?"
        "|I made a typo in a setting.|Is a wrong setting ignored?|What does it do with a wrong argument?"
        "|Are wrong names ignored?|What if I make a typo in a setting?",
        about="unknown settings|misspelt settings",
    ),
    _fact(
        "close",
        "Call close(), or use the model in a with block.",
        "How is a model unloaded?|What does close do?|Do I need to close the model?|Does it free memory?"
        "|How is the memory given back?",
        "unload the model|free the memory|close the model|release the memory|unload a model",
        about="closing the model|close|unloading",
    ),
    _fact(
        "token",
        "A token is a piece of text, often part of a word, that a model reads and writes.",
        "What is a token?|What are tokens?|Explain tokens.|What does token mean?|Define token."
        "|Tell me what a token is.|What do you mean by token?|What is meant by tokens?"
        "|What is a token in a language model?|How do I understand tokens?|Please explain what tokens are."
        "|Is a token a word?|Can you explain what a token is?",
        about="tokens",
    ),
    _fact(
        "agree",
        "Every engine gets the same token ids, so their answers differ in rounding only.",
        "Do the engines give the same answer?|Are the answers the same on all engines?"
        "|How do you prove that engines agree?|Does vllm answer like huggingface?|Why do engines agree?"
        "|Do all engines answer the same?|Will vllm give another answer?|Are answers equal on every engine?"
        "|Is the answer the same with sglang?|Why is the answer the same on all engines?"
        "|Does sglang answer like vllm?|Do the engines agree?|Does the answer change with the engine?"
        "|Will I get the same answer from another engine?|Will another engine answer differently?",
        about="agreement between engines|the agreement of the engines",
    ),
    _fact(
        "newline",
        "Press Esc and then Enter for a new line; Enter alone sends.",
        "How do I write several lines?|Which key makes a new line?|Can I write more than one line?|How is a new line typed?"
        "|Can a message have several lines?",
        "write several lines|type a new line|insert a line break|write a multi-line message|enter a long message",
        about="several lines|new lines|multi-line input",
    ),
    _fact(
        "pipe",
        "Pipe it in, for example cat notes.txt | engineroom chat.",
        "Can I pipe text into it?|Does it read standard input?|Can it read a file?|Does engineroom chat work in a pipe?"
        "|Does it take piped input?",
        "pipe text into it|send a file to the model|read from standard input|use it in a pipe|ask about a file",
        about="pipes|standard input|piping",
    ),
    _fact(
        "cut",
        "It was cut at the token limit; type /continue for the rest.",
        "What does length mean in the footer?|What is finish reason length?|Why does the footer say length?"
        "|What does the finish reason length mean?",
        about="the finish reason length",
    ),
)

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Greece": "Athens",
    "Turkey": "Ankara", "Russia": "Moscow", "Ukraine": "Kyiv", "China": "Beijing", "Japan": "Tokyo",
    "India": "New Delhi", "Thailand": "Bangkok", "Vietnam": "Hanoi", "Indonesia": "Jakarta", "Australia": "Canberra",
    "New Zealand": "Wellington", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia",
    "Argentina": "Buenos Aires", "Chile": "Santiago", "Peru": "Lima", "Cuba": "Havana", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Nigeria": "Abuja", "Morocco": "Rabat", "Belgium": "Brussels", "Switzerland": "Bern",
    "the Netherlands": "Amsterdam", "the United States": "Washington", "South Korea": "Seoul", "Iran": "Tehran",
    "Iraq": "Baghdad", "Czechia": "Prague", "Romania": "Bucharest", "Bulgaria": "Sofia", "Iceland": "Reykjavik",
}  # fmt: skip

CAPITAL_FRAMES = (
    "What is the capital of {}?",
    "What's the capital of {}?",
    "capital of {}",
    "Name the capital of {}.",
    "Which city is the capital of {}?",
    "Tell me the capital of {}.",
    "What is the capital city of {}?",
    "What is {}'s capital?",
    "Do you know the capital of {}?",
    "{} capital?",
    "The capital of {} is",
    "Give me the capital of {}.",
    "Which is the capital of {}?",
)
HELD_OUT_CAPITAL_FRAMES = ("Can you name the capital of {}?", "Please tell me the capital city of {}.")

GREETINGS = (
    ("Hello! How can I help you?", "hello|hi|hey|hi there|hello there|hey there|greetings|hallo|good day|hiya|yo|howdy|hello!"),
    ("Good morning! How can I help you?", "good morning|morning|good morning to you"),
    ("Good evening! How can I help you?", "good evening|evening|good evening to you"),
    ("I am fine, thank you. How can I help you?", "how are you|how are you doing|how is it going|how do you do|are you well"
     "|what's up|how are you today"),
    ("You are welcome!", "thanks|thank you|thank you very much|thanks a lot|great, thanks|thank you so much|many thanks"),
    ("Goodbye!", "bye|goodbye|see you|good night|bye bye|see you later|good bye|farewell"),
    ("Glad to hear it!", "great|nice|cool|good|very good|well done|good job|awesome|perfect|ok|okay"),
)  # fmt: skip

UNKNOWN = "I am sorry, I do not know that. I am a very small demo model."
