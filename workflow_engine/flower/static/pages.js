// What the pages do beyond links and forms: look for changes while they are in view, and follow the slider.
(function () {
    "use strict";

    var INTERVAL = 3000;
    var UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

    function age(seconds) {
        for (var i = 0; i < UNITS.length; i += 1) {
            if (seconds >= UNITS[i][0] || UNITS[i][0] === 1) {
                return Math.max(0, Math.floor(seconds / UNITS[i][0])) + " " + UNITS[i][1] + " ago";
            }
        }
        return "";
    }

    function showAges() {
        document.querySelectorAll("time[data-age]").forEach(function (time) {
            time.textContent = age((Date.now() - Date.parse(time.dateTime)) / 1000);
        });
    }

    // A reader who types, or has selected text, keeps what is on the screen.
    function isInUse(region) {
        var active = document.activeElement;
        var selection = window.getSelection();
        return (region.contains(active) && active.matches("input, select, textarea")) ||
            (selection && !selection.isCollapsed && region.contains(selection.anchorNode));
    }

    function put(region, page) {
        var fresh = page.getElementById("live");
        if (!fresh) {
            return;
        }
        var focused = document.activeElement && region.contains(document.activeElement) && document.activeElement.id;
        var folds = {};
        region.querySelectorAll("details[id]").forEach(function (each) { folds[each.id] = each.open; });
        var graph = region.querySelector(".engine-graph");
        var place = graph && [graph.scrollLeft, graph.scrollTop];
        region.replaceChildren.apply(region, Array.from(document.importNode(fresh, true).childNodes));
        region.dataset.live = fresh.dataset.live || "";
        region.querySelectorAll("details[id]").forEach(function (each) {
            if (each.id in folds) {
                each.open = folds[each.id];
            }
        });
        graph = region.querySelector(".engine-graph");
        if (graph && place) {
            graph.scrollLeft = place[0];
            graph.scrollTop = place[1];
        }
        if (focused && document.getElementById(focused)) {
            document.getElementById(focused).focus({preventScroll: true});
        }
        document.title = page.title;
        watchSlider();
    }

    var latest = 0;

    // An answer that another request has overtaken is not shown.
    function load(region, address, tag) {
        latest += 1;
        var number = latest;
        return fetch(address, {credentials: "same-origin", headers: tag ? {"If-None-Match": tag} : {}})
            .then(function (answer) {
                if (answer.status === 304) {
                    return null;
                }
                if (!answer.ok) {
                    throw new Error("HTTP " + answer.status);
                }
                return answer.text();
            })
            .then(function (text) {
                if (text !== null && number === latest && (!tag || !isInUse(region))) {
                    put(region, new DOMParser().parseFromString(text, "text/html"));
                }
            });
    }

    function watchChanges(region) {
        var status = document.querySelector("[data-live-status]");
        var dot = status && status.querySelector(".status-dot");
        if (status) {
            status.hidden = false;
        }

        function tell(isLive) {
            if (status) {
                status.lastElementChild.textContent = isLive ? "Live" : "Not reachable";
                dot.classList.toggle("status-dot-live", isLive);
                dot.classList.toggle("status-dot-error", !isLive);
            }
        }

        function look() {
            // A hidden tab asks nothing; it looks as soon as it is shown again.
            if (document.hidden || !region.dataset.live) {
                return;
            }
            showAges();
            load(region, window.location.href, region.dataset.live).then(
                function () { tell(true); },
                function () { tell(false); }
            );
        }

        window.setInterval(look, INTERVAL);
        document.addEventListener("visibilitychange", look);
    }

    function watchSlider() {
        var slider = document.querySelector("[data-step]");
        if (!slider) {
            return;
        }
        slider.addEventListener("input", function () {
            document.getElementById("step-text").textContent = slider.value + " of " + slider.max;
        });
        slider.addEventListener("change", function () {
            var address = new URL(window.location.href);
            address.hash = "";
            address.searchParams.delete("row");
            address.searchParams.delete("done");
            address.searchParams.set("seq", slider.value);
            window.history.replaceState(null, "", address);
            var region = document.getElementById("live");
            load(region, address, "").then(function () {
                document.getElementById("seq").focus({preventScroll: true});
            });
        });
    }

    var live = document.getElementById("live");
    if (live && live.dataset.live) {
        watchChanges(live);
    }
    watchSlider();
}());
