// SPDX-License-Identifier: Apache-2.0
// What a person does on a directory page, in headless Chromium: node browser.cjs '{"url": …, "do": [[STEP, …], …]}'.
// Prints one JSON document: the results of the steps, and everything that went wrong in the page's console or on the
// network. playwright-core is found through NODE_PATH; the browser is the system's.
"use strict";
const { chromium } = require("playwright-core");

const job = JSON.parse(process.argv[2]);
// Without these switches it calls home at every start.
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

(async () => {
  const browser = await chromium.launch({ executablePath: job.browser, headless: true, args });
  const wrong = [];
  try {
    const context = await browser.newContext({
      httpCredentials: job.user ? { username: job.user, password: job.password } : undefined,
      viewport: { width: job.width ?? 1000, height: 760 }, colorScheme: job.scheme ?? "light", acceptDownloads: true,
      javaScriptEnabled: job.script ?? true, ignoreHTTPSErrors: true,
    });
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on("console", (message) => {
      // Beside a file that it shows the browser looks for an icon of the site; our page names its own.
      if (message.location().url.endsWith("/favicon.ico") && !page.url().endsWith("/")) return;
      if (["error", "warning"].includes(message.type())) wrong.push(`${message.text()} ${message.location().url}`);
    });
    page.on("pageerror", (error) => wrong.push(String(error)));
    let answer = (dialog) => {
      wrong.push(`dialog: ${dialog.message()}`);
      return dialog.dismiss();
    };
    page.on("dialog", (dialog) => answer(dialog));
    page.on("requestfailed", (request) => {
      // A download is "aborted" for the page once the browser has taken it over.
      if (!request.failure()?.errorText.includes("ERR_ABORTED")) wrong.push(`${request.url()}: ${request.failure()?.errorText}`);
    });

    const button = () => page.getByRole("button", { name: "Upload", exact: true });
    const link = (name) => page.getByRole("link", { name, exact: true });
    const steps = {
      async open(path) {
        const answer = await page.goto(job.url + path);
        return { status: answer.status(), headers: answer.headers() };
      },
      // What somebody reads: title, heading, and the cells of each row.
      async read() {
        return {
          url: page.url(), title: await page.title(), heading: await page.locator("h1").innerText(),
          rows: await page.locator("tbody tr").evaluateAll((rows) =>
            rows.map((row) => [...row.cells].map((cell) => cell.innerText.trim()))),
          scripts: await page.locator("script").count(), images: await page.locator("img").count(),
          uploads: await page.locator("input[type=file]").count(),
        };
      },
      async follow(name) {
        await Promise.all([page.waitForLoadState("load"), link(name).first().click()]);
        return page.url();
      },
      async download(name, path) {
        const download = page.waitForEvent("download");
        // A click on a text file would show it.
        await link(name).evaluate((element) => element.setAttribute("download", ""));
        await link(name).click();
        const got = await download;
        await got.saveAs(path);
        return got.suggestedFilename();
      },
      async show(name) {
        await Promise.all([page.waitForURL((url) => !url.pathname.endsWith("/")), link(name).click()]);
        return page.locator("body").innerText();
      },
      async upload(...paths) {
        await page.locator("input[type=file]").setInputFiles(paths);
        await Promise.all([page.waitForEvent("load"), button().click()]);
      },
      // Upload one file and answer the question that comes; what was asked.
      async choose(path, accept) {
        const asked = new Promise((resolve) => { answer = (dialog) => {
          resolve(dialog.message());
          return accept ? dialog.accept() : dialog.dismiss();
        }; });
        await page.locator("input[type=file]").setInputFiles([path]);
        await Promise.all([accept ? page.waitForEvent("load") : asked, button().click()]);
        await page.locator("button:enabled").waitFor();
        return { asked: await asked };
      },
      async refused(path) {
        await page.locator("input[type=file]").setInputFiles([path]);
        await button().click();
        const state = page.locator("output").filter({ hasText: /\(\d{3}\)/ });
        await state.waitFor();
        return state.innerText();
      },
      // Every link of the table with what it leads to, in the page's own rights.
      async contents() {
        return page.locator("tbody a").evaluateAll((links) => Promise.all(
          links.map(async (link) => [link.textContent, await (await fetch(link.href)).text()])));
      },
      async drop(name, text) {
        const dropping = page.evaluate(([fileName, content]) => {
          const data = new DataTransfer();
          data.items.add(new File([content], fileName));
          document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
        }, [name, text]);
        await Promise.all([page.waitForEvent("load"), dropping]);
      },
      async screenshot(path) {
        await page.screenshot({ path });
      },
      async overflow() {
        return page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      },
    };
    const results = [];
    for (const [step, ...rest] of job.do) results.push((await steps[step](...rest)) ?? null);
    console.log(JSON.stringify({ results, wrong }));
  } finally {
    await browser.close();
  }
})().catch((error) => { console.error(error); process.exit(1); });
