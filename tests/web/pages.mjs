// The chat pages as a person uses them: a real nib serve, a real browser. Run by run.sh.
import {chromium} from 'playwright-core';
import {spawn} from 'node:child_process';
import {copyFileSync, mkdtempSync, rmSync, readFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

const folder = mkdtempSync(join(tmpdir(), 'nib-web-'));
let failed = 0, checks = 0;
const check = (what, ok, found) => {
  checks++;
  if (ok) return;
  failed++;
  console.log(`FAILED: ${what}${found === undefined ? '' : `: ${JSON.stringify(found)}`}`);
};

// ---- servers ----
const servers = [];
const serve = async (args) => {
  const child = spawn(process.env.NIB, ['serve', '--only', ...args], {stdio: ['ignore', 'ignore', 'pipe']});
  const server = {child, log: '', url: ''};
  servers.push(server);
  await new Promise((done, fail) => {
    child.stderr.on('data', (data) => {
      server.log += data;
      const at = server.log.match(/listening on (http[^;, ]*)/);
      if (at) server.url = at[1];
      if (at && (server.log.includes('ready') || server.log.includes('without a model'))) done();
    });
    child.on('exit', () => fail(new Error(server.log)));
  });
  return server;
};
const stop = (server, signal = 'SIGTERM') => new Promise((done) => {
  server.child.once('exit', done);
  server.child.kill(signal);
});

// ---- browsers ----
const browser = await chromium.launch({executablePath: process.env.CHROMIUM, args: ['--no-sandbox']});
const errors = [];
const open = async (url, options = {}) => {
  const context = await browser.newContext({viewport: {width: 1200, height: 800}, ...options});
  context.setDefaultTimeout(20000);
  const page = await context.newPage();
  page.on('console', (m) => { if (m.type() === 'error') errors.push(m.text().slice(0, 300)); });
  page.on('pageerror', (e) => errors.push(e.message));
  await page.goto(url);
  return page;
};
const shot = (page, name) => page.screenshot({path: `shots/${name}.png`});
const say = async (page, text) => {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
};
const over = (page) => page.waitForFunction(() => document.querySelector('.msg.reply') && !document.querySelector('.msg.live'));
const text = (page, selector) => page.locator(selector).last().innerText();

try {
  // ---- without a model: a fixed text, word by word, so what is to be seen is known ----
  const stub = await serve(['--port', '0', '--store', join(folder, 'stub.db')]);
  let page = await open(stub.url);
  check('greeting', await page.isVisible('.greeting h2'));
  check('stub mode is marked', (await text(page, '#banner')).includes('Stub mode'));
  check('the field has the focus', await page.evaluate(() => document.activeElement.id === 'text'));
  await shot(page, 'greeting');
  await say(page, 'What about **stars** & <b>tags</b>?');
  await page.waitForSelector('.msg.live');
  check('no second message while a reply grows', await page.isDisabled('.send'));
  await page.waitForFunction(() => document.querySelector('.live .text')?.innerText.includes('Stub reply'));
  check('it has an address of its own', page.url().endsWith('/c/1'), page.url());
  await shot(page, 'streaming');
  await page.reload(); // in mid-stream: it goes on
  check('reload in mid-stream: still live', await page.locator('.msg.live').count() === 1);
  await over(page);
  check('reload in mid-stream: all there', (await text(page, '.reply .text')).includes('start it with a model'));
  check('markup of a person stays text', (await text(page, '.user .text')).includes('<b>tags</b>'));
  check('the list names it', (await text(page, '#talks li > a')).startsWith('What about'));
  check('announced', (await page.locator('#announce').innerText()).includes('Stub reply'));
  await shot(page, 'reply');

  // palette, by keys alone
  await page.press('#text', '/');
  check('/ opens the palette', await page.isVisible('#palette'));
  await page.keyboard.type('th dark');
  await shot(page, 'palette');
  await page.keyboard.press('Enter');
  check('palette: dark', await page.getAttribute('html', 'data-theme') === 'dark');
  await page.waitForTimeout(200);
  await shot(page, 'dark');
  await page.reload();
  check('the theme stays', await page.getAttribute('html', 'data-theme') === 'dark');
  await page.click('.theme button[value=light]');
  check('light again', await page.getAttribute('html', 'data-theme') === 'light');
  await page.keyboard.press('Control+k');
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowDown');
  check('palette: arrows', (await page.getAttribute('#command', 'aria-activedescendant')) === 'command2');
  await page.keyboard.press('Escape');
  check('palette: Escape', !(await page.isVisible('#palette')));

  // edit and branch, choose, again
  await page.click('.user footer a.tool');
  await page.fill('.edit textarea', 'What about the moon?');
  await shot(page, 'edit');
  await page.click('.edit button');
  await page.waitForFunction(() => document.querySelector('.user .text')?.innerText.includes('moon'));
  await over(page);
  check('two versions', (await text(page, '.user .branches')).includes('2 / 2'));
  await page.click('.user .branches button[aria-label="The version before"]');
  await page.waitForFunction(() => document.querySelector('.user .text')?.innerText.includes('stars'));
  check('the other version', (await text(page, '.user .branches')).includes('1 / 2'));
  await page.click('.reply footer button[aria-label="Answer again"]');
  await page.waitForSelector('.msg.live');
  await over(page);
  check('answered again', (await text(page, '.reply .branches')).includes('2 / 2'));

  // copy
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.click('.reply button.copy');
  check('copy', (await page.evaluate(() => navigator.clipboard.readText())).startsWith('**Stub reply.**'));
  await page.click('.reply .copy-code');
  check('copy code', (await page.evaluate(() => navigator.clipboard.readText())).startsWith('nib serve'));

  // list: search, rename, export, delete
  await page.goto(stub.url);
  await say(page, 'Only lentils here');
  await over(page);
  await page.fill('#q', 'lentil');
  await page.waitForFunction(() => document.querySelectorAll('#talks li').length === 1);
  check('search', (await text(page, '#talks li')).includes('lentils'));
  await shot(page, 'search');
  await page.fill('#q', '');
  await page.waitForFunction(() => document.querySelectorAll('#talks li').length === 2);
  await page.hover('#talks li:first-child');
  await page.click('#talks li:first-child .more > summary');
  await shot(page, 'menu');
  await page.fill('#talks li:first-child [name=title]', 'Pulses & beans');
  await page.click('#talks li:first-child .menu button:text("Rename")');
  await page.waitForFunction(() => document.querySelector('#title').textContent === 'Pulses & beans');
  await page.hover('#talks li:first-child');
  await page.click('#talks li:first-child .more > summary');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#talks li:first-child a:text("Markdown")')]);
  check('export', readFileSync(await download.path(), 'utf8').startsWith('# Pulses & beans\n'));
  await page.click('#talks li:first-child .sure > summary');
  await page.click('#talks li:first-child .danger >> nth=-1');
  await page.waitForURL(stub.url + '/');
  check('deleted', await page.locator('#talks li').count() === 1);

  // settings
  await page.click('.settings > summary');
  await page.fill('.settings [name=system]', 'Be brief.');
  await page.fill('.settings [name=temp]', '0.4');
  await shot(page, 'settings');
  await page.click('.settings button:text("Save")');
  await page.waitForURL(/\/c\/\d+$/);
  check('settings are kept', await page.inputValue('.settings [name=system]') === 'Be brief.');

  // phone
  const phone = await open(stub.url + '/c/1', {viewport: {width: 390, height: 780}, hasTouch: true, isMobile: true});
  check('phone: nothing is wider than the screen', await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await shot(phone, 'phone');
  await phone.tap('.menu-button');
  await phone.waitForTimeout(350);
  check('phone: the list comes in', await phone.isVisible('#talks a'));
  await shot(phone, 'phone-list');
  await phone.context().close();

  // a phone in the dark of the system
  const night = await open(stub.url, {viewport: {width: 390, height: 780}, colorScheme: 'dark'});
  check('dark as the system', await night.evaluate(() => getComputedStyle(document.body).backgroundColor === 'rgb(32, 36, 46)'));
  await shot(night, 'phone-dark');
  await night.context().close();

  // no scripts at all
  const plain = await open(stub.url, {javaScriptEnabled: false});
  await plain.fill('#text', 'Without scripts');
  await plain.click('.send');
  await plain.waitForSelector('footer button[aria-label="Answer again"]');
  check('without scripts: a reply', (await text(plain, '.reply .text')).includes('start it with a model'));
  await plain.fill('#text', 'Another');
  await plain.click('.send');
  await plain.waitForSelector('article:nth-of-type(4) footer button[aria-label="Answer again"]');
  check('without scripts: two exchanges', await plain.locator('.msg').count() === 4);
  await plain.click('.user footer a.tool');
  check('without scripts: edit', await plain.isVisible('.edit textarea'));
  await shot(plain, 'no-scripts');
  await plain.context().close();

  // ---- a real model ----
  const model = await serve([process.env.MODEL, '--port', '0', '--store', join(folder, 'model.db'), '--max-seconds', '8']);
  page = await open(model.url);
  check('the model is named', (await text(page, '.pick summary')).length > 0);
  await page.click('.settings > summary'); // of random weights, the most likely token goes round in circles: long replies
  await page.fill('.settings [name=temp]', '0');
  await page.click('.settings button:text("Save")');
  await page.waitForURL(/\/c\/\d+$/);
  await page.click('#say .switch');
  check('think toggle', await page.isChecked('#say [name=think]'));
  await say(page, 'Say something long');
  await page.waitForFunction(() => /tok\/s/.test(document.querySelector('.live footer')?.innerText));
  check('live speed', /\d+ tokens · [\d.]+ tok\/s/.test(await text(page, '.live footer')), await text(page, '.live footer'));
  await page.keyboard.press('Escape'); // stops
  await over(page);
  check('stopped', /stopped|tok\/s/.test(await text(page, '.reply footer')), await text(page, '.reply footer'));
  check('context bar', /^\d+ \/ \d+$/.test(await text(page, '#context')), await text(page, '#context'));
  await page.reload();
  check('think stays', await page.isChecked('#say [name=think]'));
  await shot(page, 'model');

  // the server goes away in mid-stream, and comes back: the page says so, and shows what there is
  await say(page, 'Again, please');
  await page.waitForFunction(() => document.querySelector('.live .text')?.innerText.length > 20);
  const shown = await text(page, '.live .text');
  const port = new URL(model.url).port;
  await stop(model, 'SIGKILL');
  await page.waitForSelector('.toast', {timeout: 15000});
  await shot(page, 'lost');
  const back = await serve([process.env.MODEL, '--port', port, '--store', join(folder, 'model.db')]);
  await over(page);
  const kept = await text(page, '.reply .text');
  check('kill -9: nothing shown is lost', kept.replace(/\s/g, '').startsWith(shown.replace(/\s/g, '').slice(0, -4)), {shown, kept});
  check('the note goes', await page.locator('.toast').count() === 0);
  await shot(page, 'found');
  await stop(back);
  await page.context().close();

  // ---- several models: one at a time, so who wants another one waits until the first has ended ----
  const quick = join(folder, 'quick.gguf');
  copyFileSync(process.env.MODEL, quick);
  const both = await serve([process.env.MODEL, quick, '--port', '0', '--store', join(folder, 'both.db'), '--max-seconds', '15',
    '--models-memory', '1']);
  const picked = async (where) => (await text(where, '.pick summary')).trim();
  const pick = async (where, name) => {
    await where.click('.pick > summary');
    await where.click(`.models button[value="${name}"]`);
    await where.waitForFunction((n) => document.querySelector('.pick summary').innerText.trim() === n, name);
  };
  page = await open(both.url);
  check('the first model is chosen', await picked(page) === 'web_model', await picked(page));
  await page.click('.pick > summary');
  await page.waitForTimeout(100);
  check('both are listed', await page.locator('.models li').count() === 2);
  check('with size, format and state', /^quick\s+\d+ MB · F32 · \d+ M · llama$/.test(await text(page, '.models li:nth-child(2)')) &&
    (await text(page, '.models li:nth-child(1)')).includes('loaded'), await page.locator('.models').innerText());
  await shot(page, 'models');
  await page.keyboard.press('Escape');
  await page.click('.settings > summary');
  await page.fill('.settings [name=temp]', '0');
  await page.click('.settings button:text("Save")');
  await page.waitForURL(/\/c\/\d+$/);
  await say(page, 'Say something long');
  await page.waitForFunction(() => document.querySelector('.live .text')?.innerText.length > 20);
  const other = await open(both.url);
  await pick(other, 'quick');
  await say(other, 'Who are you?');
  await other.waitForFunction(() => document.querySelector('.live footer')?.innerText.includes('waiting for quick'));
  await shot(other, 'model-waits');
  check('the first one goes on', await page.locator('.msg.live').count() === 1);
  await page.keyboard.press('Escape'); // stops it: the other model takes its place
  await over(page);
  await over(other);
  check('the other model answers', await text(other, '.reply header') === 'quick', await text(other, '.reply header'));
  check('its context', /^\d+ \/ \d+$/.test(await text(other, '#context')), await text(other, '#context'));
  await pick(other, 'web_model'); // in mid-conversation
  await other.press('#text', '/');
  await other.keyboard.type('model');
  await other.keyboard.press('Enter');
  check('palette: model', await other.isVisible('.models'));
  await other.keyboard.press('Escape');
  await say(other, 'And now?');
  await other.waitForFunction(() => document.querySelectorAll('.msg.reply').length === 2);
  await over(other);
  check('another model in mid-conversation', await text(other, '.reply header') === 'web_model', await text(other, '.reply header'));
  check('in the same conversation', await other.locator('#talks li').count() === 2);
  await other.reload();
  check('and all of it is there', await other.locator('.msg').count() === 4);
  check('the conversation remembers it', await picked(other) === 'web_model');
  await page.reload();
  check('each its own', await picked(page) === 'web_model');
  await shot(other, 'model-switched');
  await other.context().close();

  // stop while it waits
  await pick(page, 'quick');
  const third = await open(both.url);
  await third.click('.settings > summary');
  await third.fill('.settings [name=temp]', '0');
  await third.click('.settings button:text("Save")');
  await third.waitForURL(/\/c\/\d+$/);
  await say(third, 'Say something long');
  await third.waitForFunction(() => document.querySelector('.live .text')?.innerText.length > 20);
  await say(page, 'Never mind');
  await page.waitForFunction(() => document.querySelector('.live footer')?.innerText.includes('waiting for'));
  await page.click('.live button[aria-label="Stop"]');
  await over(page);
  check('stopped while it waits', (await text(page, '.reply .text')).includes('Stopped before'), await text(page, '.reply .text'));
  await third.keyboard.press('Escape');
  await over(third);
  await third.context().close();
  await page.context().close();

  // a phone in the dark; no scripts
  const small = await open(both.url, {viewport: {width: 390, height: 780}, colorScheme: 'dark', hasTouch: true, isMobile: true});
  await small.tap('.pick > summary');
  await small.waitForTimeout(100);
  const menu = await small.locator('.pick .menu').boundingBox();
  check('phone: the list is on the screen', menu.x >= 0 && menu.x + menu.width <= 390, menu);
  await shot(small, 'models-phone');
  await small.context().close();
  const bare = await open(both.url, {javaScriptEnabled: false});
  await bare.click('.pick > summary');
  await bare.click('.models button[value="quick"]');
  check('without scripts: chosen', bare.url().endsWith('/?model=quick') && await picked(bare) === 'quick', bare.url());
  await bare.fill('#text', 'Who are you?');
  await bare.click('.send');
  await bare.waitForSelector('footer button[aria-label="Answer again"]', {timeout: 30000});
  check('without scripts: it answers', await text(bare, '.reply header') === 'quick', await text(bare, '.reply header'));
  await bare.click('.pick > summary');
  await bare.click('.models button[value="web_model"]');
  check('without scripts: another one', /\/c\/\d+$/.test(bare.url()) && await picked(bare) === 'web_model', bare.url());
  await shot(bare, 'models-no-scripts');
  await bare.context().close();
  await stop(both);
} catch (e) {
  failed++;
  console.log(`FAILED: ${e.message}`);
  for (const context of browser.contexts()) for (const page of context.pages()) await shot(page, 'failed').catch(() => {});
} finally {
  await browser.close();
  for (const server of servers) server.child.kill();
  rmSync(folder, {recursive: true, force: true});
}
const unexpected = errors.filter((e) => !/ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY|network error|Failed to fetch|409|sse:error/.test(e));
check('no errors in the console', unexpected.length === 0, unexpected);
console.log(`${checks} checks, ${failed} failed`);
process.exit(failed ? 1 : 0);
