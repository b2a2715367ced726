// Copy buttons; and on a phone the active page of the bar is scrolled into view.
document.addEventListener('click', async (event) => {
  const button = event.target.closest && event.target.closest('[data-copy]');
  if (!button) return;
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch (refused) { // no clipboard without https: the old way
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  const words = button.textContent;
  button.textContent = 'Copied';
  setTimeout(() => { button.textContent = words; }, 1500);
});

// On a phone the bar is wider than the screen: bring the active page into view once the bar is there.
new MutationObserver((changes, observer) => {
  const bar = document.querySelector('.nav-holder nav');
  const active = bar && bar.querySelector('a.active');
  if (!active) return;
  observer.disconnect();
  if (active.offsetLeft + active.offsetWidth < bar.clientWidth - 48) return; // 48: the faded end
  bar.scrollLeft = active.offsetLeft - (bar.clientWidth - active.offsetWidth) / 2;
}).observe(document, {childList: true, subtree: true});

// Keys for what can be chosen with one (data-key), as long as nobody is writing somewhere.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, textarea, select, [contenteditable]')) return;
  const found = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!found) return;
  event.preventDefault();
  found.click();
});
