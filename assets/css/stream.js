// Gradio's server ends its stream of answers as soon as nothing is left to answer. What a person sends before the browser has heard of
// that would never be answered: the client takes the old stream for open. So that end is kept from the client, and the stream goes on.
(() => {
  const plain = window.fetch;
  let asking = 0; // requests on their way to the queue
  const unanswered = new Set(); // events that the queue has taken
  const early = new Set(); // answered before the queue's word that it has them was read

  async function join(asked) {
    asking += 1;
    try {
      const answer = await plain.apply(window, asked);
      const {event_id: event} = answer.ok ? await answer.clone().json() : {};
      if (event && !early.delete(event)) unanswered.add(event);
      return answer;
    } finally {
      asking -= 1;
    }
  }

  async function* messages(body) { // whole ones, whatever pieces they come in
    const reader = body.getReader(), decoder = new TextDecoder();
    for (let rest = '', last = false; !last;) {
      const {value, done} = await reader.read();
      const parts = (rest + (done ? '' : decoder.decode(value, {stream: true}))).split('\n\n');
      last = done;
      rest = parts.pop();
      yield* parts;
    }
  }

  async function listen(asked) {
    const first = await plain.apply(window, asked);
    if (!first.ok || !first.body) return first;
    const encoder = new TextEncoder();
    const pump = async (out) => {
      for (let answer = first; answer;) {
        let goesOn = false;
        for await (const text of messages(answer.body)) {
          const {msg, event_id: event} = text.startsWith('data: {') ? JSON.parse(text.slice(6)) : {}; // else a comment of a proxy
          if (msg === 'process_completed' && !unanswered.delete(event)) early.add(event);
          goesOn = msg === 'close_stream' && (asking > 0 || unanswered.size > 0);
          if (!goesOn) out.enqueue(encoder.encode(text + '\n\n'));
        }
        answer = goesOn ? await plain.apply(window, asked) : null;
        if (answer && !answer.ok) throw new Error('the app does not know this page any more');
      }
      out.close();
    };
    const forget = () => [unanswered, early].forEach((events) => events.clear());
    const told = new ReadableStream({start: (out) => { pump(out).catch((broken) => { forget(); out.error(broken); }); }});
    return new Response(told, {status: first.status, headers: first.headers});
  }

  window.fetch = (...asked) => {
    const path = String((asked[0] && asked[0].url) || asked[0]);
    return path.includes('/queue/join') ? join(asked) : path.includes('/queue/data') ? listen(asked) : plain.apply(window, asked);
  };
})();
