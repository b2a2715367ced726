"""Chat with any server that speaks OpenAI's HTTP interface: vLLM, llama.cpp, Ollama, `transformers serve`. Answers arrive as they are made.

    openai:<model>@<base url>        the base url ends before /chat/completions, most often with /v1
"""

from __future__ import annotations

import json

from core import ChatModel, Outcome, UserError, Words, hookimpl

SILENCE = 600.0
"""Seconds without a word after which the server is given up: a small machine may read a long prompt for minutes."""
CONNECT = 10.0


class ServerChat(ChatModel):
    """A model behind /chat/completions."""

    name = "server"
    title = "OpenAI-compatible server"
    local = False
    key = "OPENAI_API_KEY"

    @classmethod
    def takes(cls, ref):
        return ref.kind == "openai"

    @property
    def url(self):
        return f"{self.ref.url.rstrip('/')}/chat/completions"

    def answer(self, messages, sampling, tell, should_stop):
        import httpx

        from core.active import StopRequested
        from core.api_key import ApiKey

        key = ApiKey(self.given_key, self.key)
        body = {"model": self.ref.name, "messages": list(messages), "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed, "stream": True,
                "stream_options": {"include_usage": True}}
        heard = _Heard(key)
        try:
            with httpx.Client(timeout=httpx.Timeout(SILENCE, connect=CONNECT), headers=key.headers) as client, \
                    client.stream("POST", self.url, json=body) as reply:
                if reply.status_code != 200:
                    from core.lm.engine_server import reason_of

                    reply.read()
                    raise UserError(f"{self.url} answered with status {reply.status_code} ({reason_of(reply, key)}); check the model's "
                                    f"name, the address and {self.key}.")
                for line in reply.iter_lines():
                    if should_stop():
                        raise StopRequested
                    if heard.take(line, self.url):
                        tell(Words("reply", 0, heard.text))
        except httpx.HTTPError as error:
            raise UserError(f"{self.url} did not answer ({type(error).__name__}: {key.hide(str(error)) or 'no reason given'}); check that "
                            "the server runs and is reached from here.") from None
        if not heard.any:
            raise UserError(f"{self.url} sent no answer in OpenAI's format; check the address (it most often ends with /v1).")
        tell(Words("reply", 0, heard.text, done=True))
        note = "the service's content filter ended it" if heard.finish == "content_filter" else ""
        return Outcome(tokens=heard.tokens, prompt_tokens=heard.prompt_tokens, note=note,
                       finish="refused" if note else "length" if heard.finish == "length" else "stop")


class _Heard:
    """What has come of a stream so far. Tokens are the server's own count, else the number of pieces."""

    def __init__(self, key):
        self.key = key
        self.text = self.finish = ""
        self.any = False
        self.tokens = self.prompt_tokens = 0

    def take(self, line, url):
        """One line of the stream; True where it brought words. Comments and the closing [DONE] bring none."""
        data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
        if not data or data == "[DONE]":
            return False
        try:
            chunk = json.loads(data)
        except ValueError:
            raise UserError(f"{url} sent something other than JSON in its stream; it does not seem to be an OpenAI-compatible "
                            "server.") from None
        if chunk.get("error"):
            error = chunk["error"]
            said = self.key.hide(str(error.get("message", error) if isinstance(error, dict) else error))
            raise UserError(f"{url} broke off: {said[:200]}.")
        usage = chunk.get("usage") or {}
        self.tokens = int(usage.get("completion_tokens") or self.tokens)
        self.prompt_tokens = int(usage.get("prompt_tokens") or self.prompt_tokens)
        choice = (chunk.get("choices") or [{}])[0]
        self.any = self.any or bool(chunk.get("choices"))
        self.finish = choice.get("finish_reason") or self.finish
        more = (choice.get("delta") or {}).get("content") or ""
        self.text += more
        if more and not usage:
            self.tokens += 1
        return bool(more)


@hookimpl
def register_chat_models():
    return [ServerChat]
