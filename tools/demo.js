const large = document.getElementById("large"), frame = large.querySelector("div");
for (const button of document.querySelectorAll("figure button"))
  button.addEventListener("click", () => {
    const picture = button.querySelector("img"), copy = new Image();
    copy.src = picture.currentSrc;
    copy.alt = picture.alt;
    frame.replaceChildren(copy);
    large.showModal();
  });
large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
