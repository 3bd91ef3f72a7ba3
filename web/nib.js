/* What the pages do beyond forms and htmx: keys, copying, following a reply down the page, the palette of commands. The
   page works without any of it. */
(() => {
  'use strict';
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const root = document.documentElement;
  root.classList.add('js');
  document.cookie = 'nib_js=1; Path=/; Max-Age=31536000; SameSite=Strict';

  const field = $('#text'), say = $('#say'), messages = $('#messages'), palette = $('#palette');
  if (!say) return;

  // ---- the field: grows with its text, Enter sends ----
  const grow = (area) => {
    area.style.height = 'auto';
    area.style.height = Math.min(area.scrollHeight, innerHeight * 0.4) + 'px';
  };
  const live = () => $('.msg.live');
  const ready = () => {
    const busy = !!live();
    $('.send').disabled = busy;
    $('.send').title = busy ? 'The reply is still being written' : 'Send';
  };
  document.addEventListener('input', (e) => {
    if (e.target.matches('textarea')) grow(e.target);
    if (e.target === field && field.value === '/') {
      field.value = '';
      openPalette();
    }
  });
  document.addEventListener('keydown', (e) => {
    const area = e.target.closest?.('#text, .edit textarea');
    if (area && e.key === 'Enter' && !e.shiftKey && !e.isComposing) {
      e.preventDefault();
      if (area === field && live()) return;
      if (area.value.trim()) area.form.requestSubmit();
    } else if (area === field && e.key === 'ArrowUp' && !field.value) {
      e.preventDefault();
      lastOf('.user')?.querySelector('footer a.tool')?.click();
    } else if (e.key === 'Escape' && !palette.open) {
      if ($('details.more[open], details.settings[open], details.pick[open]')) closeMenus();
      else if (live()) run('/stop');
    } else if (e.key === 'k' && (e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      openPalette();
    }
  });
  const lastOf = (selector) => $$('.msg' + selector).at(-1);

  // ---- menus close when the rest of the page is used ----
  const closeMenus = (except) => {
    for (const d of $$('details.more[open], details.settings[open], details.pick[open]'))
      if (!except || !d.contains(except)) d.open = false;
  };
  document.addEventListener('click', (e) => closeMenus(e.target));

  // ---- following a reply: as long as the reader is at the end ----
  let follow = true;
  const atEnd = () => messages.scrollHeight - messages.scrollTop - messages.clientHeight < 80;
  const toEnd = () => messages.scrollTo({top: messages.scrollHeight, behavior: 'instant'});
  messages.addEventListener('wheel', () => { follow = atEnd(); }, {passive: true});
  messages.addEventListener('touchmove', () => { follow = atEnd(); }, {passive: true});
  messages.addEventListener('scroll', () => { if (atEnd()) follow = true; }, {passive: true});
  new MutationObserver(() => { if (follow) toEnd(); }).observe(messages, {childList: true, subtree: true, characterData: true});

  // ---- sending ----
  const sends = (e) => e.target.closest?.('form[action="/ui/say"]');
  document.addEventListener('submit', (e) => {
    const form = sends(e);
    if (!form) return;
    if (live()) {
      e.preventDefault();
      e.stopImmediatePropagation();
      return;
    }
    follow = true;
    for (const s of $$('.suggestions')) {
      htmx.trigger(s, 'htmx:abort');
      if (!s.contains(form)) s.remove();
    }
  }, true);
  document.addEventListener('htmx:after:request', (e) => {
    const ctx = e.detail.ctx;
    if (ctx?.request?.action !== '/ui/say' || !ctx.response || ctx.response.status >= 400) return;
    $('.suggestions')?.remove();
    if (ctx.sourceElement === say) {
      field.value = '';
      grow(field);
    }
    field.focus();
  });
  document.addEventListener('htmx:after:swap', ready);

  // ---- a reply's stream ----
  document.addEventListener('done', (e) => {
    const article = e.target.closest?.('.msg');
    if (!article) return;
    article.classList.remove('live');
    article.removeAttribute('aria-busy');
    /* hx-sse looks at its attributes once more after this event */
    setTimeout(() => {
      for (const name of ['hx-sse:connect', 'hx-sse:close', 'hx-target', 'hx-swap']) article.removeAttribute(name);
    });
    ready();
  });
  let lost = null;
  document.addEventListener('htmx:sse:error', () => {
    lost ||= toast('The connection is lost. Trying again\u2026', true);
  });
  const found = () => { lost?.remove(); lost = null; };
  document.addEventListener('htmx:sse:after:connection', found);
  document.addEventListener('htmx:sse:close', found);

  // ---- notes ----
  const toasts = $('#toasts');
  const toast = (text, stays) => {
    const p = document.createElement('p');
    p.className = 'toast';
    p.textContent = text;
    if (stays) p.dataset.stays = '';
    toasts.append(p);
    return p;
  };
  new MutationObserver((all) => {
    for (const change of all)
      for (const node of change.addedNodes)
        if (node.dataset && !('stays' in node.dataset)) setTimeout(() => node.remove(), 6000);
  }).observe(toasts, {childList: true});
  document.addEventListener('htmx:error', (e) => {
    if (!e.target.closest?.('.live')) toast('The server cannot be reached.');
  });

  // ---- copying ----
  const copy = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement('textarea');
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand('copy');
      area.remove();
    }
    $('#announce').textContent = 'Copied';
    button.classList.add('copied');
    setTimeout(() => button.classList.remove('copied'), 1200);
  };
  document.addEventListener('click', (e) => {
    const whole = e.target.closest('button.copy'), code = e.target.closest('button.copy-code');
    if (whole) copy($('.raw', whole.closest('.msg')).value, whole);
    if (code) copy($('code', code.closest('figure')).textContent, code);
  });

  // ---- themes, at once ----
  const theme = (name) => {
    if (name === 'auto') root.removeAttribute('data-theme');
    else root.setAttribute('data-theme', name);
    document.cookie = `nib_theme=${name}; Path=/; Max-Age=31536000; SameSite=Strict`;
    for (const b of $$('.theme button')) b.setAttribute('aria-pressed', String(b.value === name));
  };
  $('.theme').addEventListener('submit', (e) => {
    e.preventDefault();
    theme(e.submitter.value);
  });

  // ---- the palette ----
  const list = $('#commands'), input = $('#command');
  const commands = [
    ['/new', 'Begin a conversation', () => { location.href = '/'; }],
    ['/stop', 'Stop the reply', () => $('.msg.live form[action="/ui/stop"]')?.requestSubmit()],
    ['/again', 'Answer the last message again', () => lastOf('.reply')?.querySelector('form[action="/ui/again"]')?.requestSubmit()],
    ['/edit', 'Edit your last message', () => lastOf('.user')?.querySelector('footer a.tool')?.click()],
    ['/copy', 'Copy the last reply', () => lastOf('.reply')?.querySelector('button.copy')?.click()],
    ['/think', 'Let the model think first, or not', () => $('#say [name=think]').click()],
    ['/search', 'Search the conversations', () => { $('#drawer').checked = true; $('#q').focus(); }],
    ['/settings', 'System text, temperature, retention', () => { $('.settings').open = true; $('.settings textarea').focus(); }],
    ['/model', 'Choose the model', () => { $('.pick').open = true; ($('.pick [aria-current] button') || $('.pick button'))?.focus(); }],
    ['/export md', 'Write the conversation as Markdown', () => getExport('md')],
    ['/export json', 'Write the conversation as JSON', () => getExport('json')],
    ['/export pdf', 'Write the conversation as PDF', () => getExport('pdf')],
    ['/theme light', 'Light', () => theme('light')],
    ['/theme dark', 'Dark', () => theme('dark')],
    ['/theme auto', 'As the system', () => theme('auto')],
  ];
  const getExport = (as) => {
    const talk = $('#say-ids [name=talk]').value;
    if (talk !== '0') location.href = `/ui/export/${talk}?as=${as}`;
    else toast('There is nothing to write yet.');
  };
  const run = (name) => commands.find((c) => c[0] === name)[2]();
  let chosen = 0;
  const fill = () => {
    const words = input.value.toLowerCase().replace(/^\//, '').split(/\s+/).filter(Boolean);
    const named = (c) => (words.length && c[0].startsWith('/' + words[0]) ? 0 : 1); // before those that only mention it
    const shown = commands.filter((c) => words.every((w) => (c[0] + ' ' + c[1]).toLowerCase().includes(w)))
      .sort((a, b) => named(a) - named(b));
    chosen = Math.max(0, Math.min(chosen, shown.length - 1));
    list.replaceChildren(...shown.map((c, i) => {
      const li = document.createElement('li'), help = document.createElement('small');
      li.id = 'command' + i;
      li.setAttribute('role', 'option');
      li.setAttribute('aria-selected', String(i === chosen));
      li.append(c[0], help);
      help.textContent = c[1];
      li.addEventListener('click', (e) => {
        e.stopPropagation(); // which would close the menu that it opens
        palette.close();
        c[2]();
      });
      return li;
    }));
    input.setAttribute('aria-activedescendant', shown.length ? 'command' + chosen : '');
    list.children[chosen]?.scrollIntoView({block: 'nearest'});
  };
  const openPalette = () => {
    input.value = '/';
    chosen = 0;
    fill();
    palette.showModal();
    input.focus();
  };
  input.addEventListener('input', () => { chosen = 0; fill(); });
  input.addEventListener('keydown', (e) => {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      e.preventDefault();
      const n = list.children.length;
      if (n) chosen = (chosen + (e.key === 'ArrowDown' ? 1 : n - 1)) % n;
      fill();
    } else if (e.key === 'Enter') {
      e.preventDefault();
      list.children[chosen]?.click();
    } else if (e.key === 'Backspace' && input.value.length <= 1) {
      palette.close();
    }
  });
  palette.addEventListener('close', () => field.focus());
  palette.addEventListener('click', (e) => { if (e.target === palette) palette.close(); });

  ready();
  if ($('.msg')) toEnd();
  document.addEventListener('htmx:after:settle', ready);
})();
