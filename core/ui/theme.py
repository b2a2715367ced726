"""How everything looks (the Gradio theme and our stylesheet), and the one component that shows our HTML pieces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.themes.utils.fonts import LocalFont

from core.runs import REPOSITORY

STYLES = REPOSITORY / "assets" / "css"
"""Every *.css and *.js here is loaded, in the order of the names."""

REFRESH = 2.0
"""Seconds between two looks of an open page. The browser works at each of them, most on pages of forms, also when nothing has changed."""

# One delegated listener, so that it survives a changed value. Links, veils and folds inside a row keep their own clicks.
_CLICKS = """
let held = null;  // the act whose button has the focus: a changed value replaces the button, and the focus with it
const remember = (event) => {
  const found = event.target.closest && event.target.closest('[data-act]');
  held = found && element.contains(found) ? [found.dataset.act, found.dataset.value || ''] : null;
};
document.addEventListener('focusin', remember);
document.addEventListener('pointerdown', remember);
new MutationObserver(() => {
  if (!held || document.activeElement !== document.body) return;
  const [act, value] = held.map((word) => CSS.escape(word));
  const again = element.querySelector(`[data-act="${act}"][data-value="${value}"]`);
  if (again) again.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true});
const own = (event) => event.target.closest('a, label, summary, input, textarea, select');
element.addEventListener('click', (event) => {
  const found = event.target.closest('[data-act]');
  if (!found || !element.contains(found) || (own(event) && found.contains(own(event)) && own(event) !== found)) return;
  trigger('select', {index: found.dataset.act, value: found.dataset.value || ''});
});
element.addEventListener('keydown', (event) => {
  if ((event.key !== 'Enter' && event.key !== ' ') || !event.target.matches('tr[data-act]')) return;
  event.preventDefault();
  trigger('select', {index: event.target.dataset.act, value: event.target.dataset.value || ''});
});
"""


def block(value: str | Callable[..., Any] = "", **options: Any) -> gr.HTML:
    """A `gr.HTML` for our pieces. Clicks on `data-act` elements in it arrive by `.select(fn)`; read them with `clicked(event)`."""
    return gr.HTML(value, apply_default_css=False, js_on_load=_CLICKS, **options)


def clicked(event: gr.SelectData) -> tuple[str, str]:
    """(act, value) of the element that was clicked in a `block`."""
    return str(event.index), str(event.value or "")


def head() -> str:
    """Stylesheets and scripts for the page's head; `css=` would be rewritten by Gradio and lose rules."""
    viewport = '<meta name="color-scheme" content="light dark">'
    styles, scripts = ("".join(path.read_text("utf-8") for path in sorted(STYLES.glob(f"*.{kind}"))) for kind in ("css", "js"))
    return f"{viewport}<style>{styles}</style><script>{scripts}</script>"


def theme() -> gr.themes.Base:
    """Flat surfaces, IBM Plex in the two weights whose bundled files hold Latin letters, every colour with its dark twin."""
    base = gr.themes.Base(
        font=[LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif"],
        font_mono=[LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_sm, text_size=gr.themes.sizes.text_md)
    return base.set(**_both(_COLOURS), **_MEASURES)


_COLOURS: dict[str, str] = {
    "body_background_fill": "page", "body_text_color": "text", "body_text_color_subdued": "text2",
    "background_fill_primary": "card", "background_fill_secondary": "sunken",
    "border_color_primary": "line", "border_color_accent": "accent", "border_color_accent_subdued": "line",
    "color_accent_soft": "tint", "link_text_color": "accent", "link_text_color_hover": "accent-hover",
    "link_text_color_active": "accent", "link_text_color_visited": "accent",
    "block_title_text_color": "text", "block_label_text_color": "text", "block_info_text_color": "text2", "block_border_color": "line",
    "input_background_fill": "card", "input_background_fill_focus": "card", "input_background_fill_hover": "card",
    "input_border_color": "input-line", "input_border_color_focus": "accent", "input_border_color_hover": "input-line",
    "input_placeholder_color": "text2",
    "checkbox_background_color": "card", "checkbox_background_color_selected": "accent", "checkbox_background_color_hover": "card",
    "checkbox_background_color_focus": "card", "checkbox_border_color": "input-line", "checkbox_border_color_selected": "accent",
    "checkbox_border_color_focus": "accent", "checkbox_border_color_hover": "input-line",
    "checkbox_label_background_fill": "card", "checkbox_label_background_fill_hover": "sunken",
    "checkbox_label_background_fill_selected": "tint", "checkbox_label_text_color": "text", "checkbox_label_text_color_selected": "accent",
    "checkbox_label_border_color": "input-line", "checkbox_label_border_color_hover": "input-line",
    "button_primary_background_fill": "accent", "button_primary_background_fill_hover": "accent-hover",
    "button_primary_border_color": "accent", "button_primary_border_color_hover": "accent-hover",
    "button_primary_text_color": "on-accent", "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "card", "button_secondary_background_fill_hover": "sunken",
    "button_secondary_border_color": "input-line", "button_secondary_border_color_hover": "input-line",
    "button_secondary_text_color": "text", "button_secondary_text_color_hover": "text",
    "button_cancel_background_fill": "card", "button_cancel_background_fill_hover": "sunken",
    "button_cancel_border_color": "fail", "button_cancel_border_color_hover": "fail",
    "button_cancel_text_color": "fail", "button_cancel_text_color_hover": "fail",
    "table_border_color": "line", "table_even_background_fill": "card", "table_odd_background_fill": "card",
    "table_row_focus": "tint", "table_text_color": "text", "code_background_fill": "sunken",
    "error_background_fill": "error-bg", "error_border_color": "fail", "error_text_color": "text", "error_icon_color": "fail",
    "loader_color": "accent", "slider_color": "accent", "stat_background_fill": "tint",
}
"""Gradio variable: our custom property. The properties change with the mode, so both modes name the same one."""

_MEASURES: dict[str, str] = {
    "block_background_fill": "transparent", "block_background_fill_dark": "transparent",
    "block_border_width": "0px", "block_border_width_dark": "0px", "block_padding": "0px",
    "block_shadow": "none", "block_shadow_dark": "none",
    "block_title_text_size": "13px", "block_title_text_weight": "700", "block_info_text_size": "12.5px", "block_info_text_weight": "400",
    "block_title_background_fill": "transparent", "block_title_background_fill_dark": "transparent", "block_title_border_width": "0px",
    "block_title_padding": "0px", "block_label_background_fill": "transparent", "block_label_background_fill_dark": "transparent",
    "form_gap_width": "0px", "layout_gap": "16px", "panel_background_fill": "transparent", "panel_background_fill_dark": "transparent",
    "panel_border_width": "0px", "input_border_width": "1px", "input_border_width_dark": "1px",
    "input_shadow": "none", "input_shadow_dark": "none",
    "input_shadow_focus": "none", "input_shadow_focus_dark": "none", "input_radius": "6px", "input_padding": "8px 11px",
    "input_text_size": "14px", "input_text_weight": "400", "checkbox_shadow": "none", "checkbox_label_shadow": "none",
    "container_radius": "10px", "block_radius": "8px", "checkbox_label_padding": "8px 12px",
    "button_border_width": "1px", "button_border_width_dark": "1px", "button_large_radius": "6px", "button_medium_radius": "6px",
    "button_small_radius": "6px", "button_large_text_size": "13.5px", "button_medium_text_size": "13.5px", "button_small_text_size": "13px",
    "button_large_text_weight": "700", "button_medium_text_weight": "700", "button_small_text_weight": "700",
    "button_large_padding": "9px 16px", "button_medium_padding": "9px 16px", "button_small_padding": "5px 12px",
    "button_primary_shadow": "none", "button_primary_shadow_hover": "none", "button_primary_shadow_active": "none",
    "button_secondary_shadow": "none", "button_secondary_shadow_hover": "none", "button_secondary_shadow_active": "none",
    "button_cancel_shadow": "none", "button_cancel_shadow_hover": "none", "button_cancel_shadow_active": "none",
    "button_transform_hover": "none", "button_transform_active": "none", "button_transition": "none",
}


def _both(colours: dict[str, str]) -> dict[str, str]:
    light = {name: f"var(--gw-{ours})" for name, ours in colours.items()}
    return {**light, **{f"{name}_dark": value for name, value in light.items()}}


def on_load(fn: Callable[..., Any], inputs: Any = None, outputs: Any = None) -> Any:
    """Call `fn` when the page that is being built is opened; `.then(...)` on the answer goes on after it."""
    from gradio.context import Context

    assert Context.root_block is not None
    return Context.root_block.load(fn, inputs, outputs, show_progress="hidden", api_visibility="private")
