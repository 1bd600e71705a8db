// Keeps the console current. The server renders everything; this script only follows the stream of events.
"use strict";

(() => {
  const main = document.getElementById("main");
  const rowsMax = Number(main.dataset.paymentRows);
  const seesParties = main.dataset.seesParties === "true";
  const partsUrl = main.dataset.parts.replace(/payments$/, "");

  // The server says how often it sends a heartbeat by sending one; silence for this long means the stream is dead.
  const SILENCE_MS = 40_000;
  const RETRY_MS = [1_000, 2_000, 5_000, 10_000];
  const RENDER_EVERY_MS = 150;
  // More rows than this at once and the list turns over as a whole: then once a second, and without highlights.
  const CALM_ROWS = 4;
  const BUSY_RENDER_MS = 1_000;
  const SECTIONS_EVERY_MS = { settlements: 5_000, gateways: 10_000 };
  const SETTLEMENTS_AFTER_MS = 400;

  // --- Writing amounts and keys (the same rules as apps/console/templatetags/console.py) -----------------------

  function usdc(atomic) {
    const digits = BigInt(atomic).toString().padStart(7, "0");
    const whole = digits.slice(0, -6).replace(/\B(?=(\d{3})+$)/g, ",");
    return `${whole}.${digits.slice(-6)}`;
  }

  const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
  const shortened = (key) => (key.length <= 12 ? key : `${key.slice(0, 4)}…${key.slice(-4)}`);
  const clock = (time) => new Date(time).toISOString().slice(11, 19);

  function set(id, text, value = text) {
    const element = document.getElementById(id);
    if (element.textContent !== text) {
      element.textContent = text;
      element.value = value;
    }
  }

  // --- Figures --------------------------------------------------------------------------------------------------

  const sparkline = document.getElementById("sparkline");
  const history = sparkline.parentNode.dataset.history.split(",").filter(Boolean).map(Number);

  function showStats(stats) {
    set("charged", usdc(stats.charged_atomic), stats.charged_atomic);
    set("settled", usdc(stats.settled_atomic), stats.settled_atomic);
    set("unsettled", usdc(stats.unsettled_atomic), stats.unsettled_atomic);
    set("paid-calls", grouped(stats.paid_calls), String(stats.paid_calls));
    set("gateways-up", String(stats.gateways_up));
    document.getElementById("gateways-known").textContent = String(stats.gateways);
    showMeter(BigInt(stats.charged_atomic), BigInt(stats.settled_atomic));
    if (stats.calls_per_second !== null) {
      set("rate", stats.calls_per_second.toFixed(1));
      showRate(stats.calls_per_second);
    }
  }

  function showMeter(charged, settled) {
    const percent = charged > 0n ? Number((settled * 100n) / charged) : 0;
    document.getElementById("meter-fill").setAttribute("width", String(Math.min(100, percent)));
    document.getElementById("meter")
      .setAttribute("aria-label", `${percent} percent of what was charged is settled on chain`);
  }

  function showRate(rate) {
    history.push(rate);
    history.splice(0, history.length - 60);
    const top = Math.max(...history) || 1;
    const start = 60 - history.length;
    const points = history.map((value, place) => `${(start + place) * 2},${(28 - (26 * value) / top).toFixed(1)}`);
    sparkline.setAttribute("points", points.join(" "));
  }

  // --- Payments -------------------------------------------------------------------------------------------------

  const paymentTemplate = document.getElementById("payment-row").content.firstElementChild;
  const pause = document.getElementById("pause");
  let waiting = [];
  let waitingCount = 0;
  let isPaused = false;
  // The list was rendered anew while it was held still: it is asked for again when it goes on.
  let isStale = false;
  let renderedAt = 0;
  // For a moment after the server rendered the list, the stream may still bring what is already in it.
  const SETTLING_MS = 2_000;
  let loadedUpTo = 0;
  let settledUntil = 0;

  function paymentRow(payment) {
    const row = paymentTemplate.cloneNode(true);
    const time = row.querySelector("time");
    time.dateTime = payment.time;
    time.textContent = clock(payment.time);
    const route = row.querySelector(".route");
    route.textContent = payment.route ?? "–";
    const city = payment.city ?? payment.regions?.[1];
    if (city) {
      const label = document.createElement("span");
      label.className = "city";
      label.textContent = city;
      route.append(" ", label);
    }
    row.querySelector(".amount").textContent = usdc(payment.charged_atomic ?? payment.amount_atomic);
    if (seesParties) {
      for (const party of ["agent", "gateway"]) {
        const code = row.querySelector(`code.${party}`);
        code.textContent = shortened(payment[party]);
        code.title = payment[party];
      }
      if (payment.latency_ms !== null) {
        row.querySelector(".latency").textContent = `${payment.latency_ms.toFixed(0)} ms`;
      }
    }
    return row;
  }

  function takePayment(payment) {
    // Staff pages watch the gateways' own topics, which carry the same payments with their parties.
    if (seesParties !== Boolean(payment.gateway) || payment.charged_atomic === "0") return;
    if (Date.now() < settledUntil && Date.parse(payment.time) <= loadedUpTo) return;
    waiting.push(payment);
    waitingCount += 1;
    if (waiting.length > rowsMax) waiting = waiting.slice(-rowsMax);
  }

  function renderPayments() {
    if (isPaused) {
      pause.textContent = waitingCount ? `Resume (${grouped(waitingCount)} new)` : "Resume";
      return;
    }
    const isBusy = waiting.length > CALM_ROWS;
    if (!waiting.length || document.hidden || (isBusy && Date.now() - renderedAt < BUSY_RENDER_MS)) return;
    renderedAt = Date.now();
    const body = document.querySelector("#payments tbody");
    const rows = waiting.reverse().map(paymentRow);
    if (!isBusy) for (const row of rows) row.className = "fresh";
    body.prepend(...rows);
    while (body.rows.length > rowsMax) body.deleteRow(-1);
    document.getElementById("payments-empty")?.remove();
    waiting = [];
    waitingCount = 0;
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.setAttribute("aria-pressed", String(isPaused));
    pause.textContent = isPaused ? "Resume" : "Pause";
    renderPayments();
    if (isStale && !isPaused) {
      isStale = false;
      reload("payments");
    }
  });
  setInterval(renderPayments, RENDER_EVERY_MS);

  // --- Sections that the server renders -------------------------------------------------------------------------

  const scheduled = new Map();

  async function reload(name) {
    try {
      const response = await fetch(partsUrl + name, { credentials: "same-origin" });
      if (!response.ok) return;
      const rendered = await response.text();
      if (name === "payments" && isPaused) {
        isStale = true;
        return;
      }
      document.getElementById(name).innerHTML = rendered;
      if (name === "payments") startFromLoaded();
    } catch {
      // The next event or the next reconnection asks again.
    }
  }

  function reloadSoon(name, delay) {
    if (scheduled.has(name)) return;
    scheduled.set(name, setTimeout(() => {
      scheduled.delete(name);
      reload(name);
    }, delay));
  }

  function startFromLoaded() {
    loadedUpTo = Date.parse(document.querySelector("#payments tbody time")?.dateTime ?? 0) || 0;
    // What came while the list was on its way is not in it.
    waiting = waiting.filter((payment) => Date.parse(payment.time) > loadedUpTo);
    waitingCount = waiting.length;
    settledUntil = Date.now() + SETTLING_MS;
  }

  function reloadAll() {
    for (const name of ["payments", "settlements", "gateways"]) reload(name);
  }

  for (const [name, every] of Object.entries(SECTIONS_EVERY_MS)) {
    setInterval(() => {
      if (!document.hidden) reloadSoon(name, 0);
    }, every);
  }

  // --- The stream -----------------------------------------------------------------------------------------------

  const connection = document.getElementById("connection");
  const connectionText = document.getElementById("connection-text");
  let source = null;
  let attempts = 0;
  let heardAt = Date.now();
  let wasLost = false;

  function showConnection(state, text) {
    if (connection.dataset.state === state) return;
    connection.dataset.state = state;
    connectionText.textContent = text;
  }

  function on(name, handle) {
    source.addEventListener(name, (event) => {
      heardAt = Date.now();
      handle(JSON.parse(event.data));
    });
  }

  function connect() {
    showConnection(wasLost ? "reconnecting" : "connecting", wasLost ? "Reconnecting…" : "Connecting…");
    source = new EventSource(main.dataset.stream);
    heardAt = Date.now();
    source.onopen = () => {
      heardAt = Date.now();
      attempts = 0;
      showConnection("live", "Live");
      // Even if the stream goes on where it was, the server is asked what is true now.
      if (wasLost) reloadAll();
      // What was paid since the page was rendered came before the stream.
      else reload("payments");
      wasLost = false;
    };
    source.onerror = () => {
      wasLost = true;
      if (source.readyState === EventSource.CLOSED) reconnect();
      // The browser reconnects by itself and says where it was.
      else showConnection("reconnecting", "Reconnecting…");
    };
    on("heartbeat", () => {});
    on("stats", showStats);
    on("payment", takePayment);
    on("settlement", () => reloadSoon("settlements", SETTLEMENTS_AFTER_MS));
    on("gap", reloadAll);
  }

  // After an answer that the browser takes as final (a full server, a proxy's error page) it is ours to try again.
  function reconnect() {
    source.close();
    const delay = RETRY_MS[Math.min(attempts, RETRY_MS.length - 1)];
    attempts += 1;
    wasLost = true;
    showConnection("offline", "Offline, trying again…");
    setTimeout(connect, delay);
  }

  setInterval(() => {
    if (source.readyState !== EventSource.CLOSED && Date.now() - heardAt > SILENCE_MS) reconnect();
  }, 5_000);

  connect();
})();
