// Before anything is drawn: the theme that was chosen, else that of the system. The report's own script goes by the same name.
'use strict';
(() => {
  let chosen = null;
  try {
    chosen = window.localStorage.getItem('sai3ssh-theme');
  } catch {
    // It is forgotten with the page.
  }
  document.documentElement.dataset.theme = chosen ?? (window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
})();
