// Links to a place on the same page: Gradio's pages have a base address, so the browser would leave for the first page.
document.addEventListener('click', (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#"]');
  const place = link && document.getElementById(link.getAttribute('href').slice(1));
  if (!place) return;
  event.preventDefault();
  place.scrollIntoView();
});
