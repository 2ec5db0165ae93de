"use strict";
// One zoom for all photographs; the panels of a photograph scroll together.

const zoom = document.getElementById("zoom");
const asked = new URLSearchParams(location.hash.slice(1)).get("zoom");
if (asked) zoom.value = asked;
const show = () => document.documentElement.style.setProperty("--zoom", zoom.value);
zoom.addEventListener("input", show);
show();

for (const photograph of document.querySelectorAll(".photo")) {
  const windows = [...photograph.querySelectorAll(".window")];
  for (const one of windows) {
    one.addEventListener("scroll", () => {
      for (const other of windows) {
        if (other.scrollLeft !== one.scrollLeft) other.scrollLeft = one.scrollLeft;
        if (other.scrollTop !== one.scrollTop) other.scrollTop = one.scrollTop;
      }
    });
  }
}
